"""Folder names, and which run a command continues."""

from fake_world import make_identity
from hypothesis import given
from hypothesis import strategies as st

from bench.runs.opening import differences
from bench.runs.record import slug

OPTIONS = {"views": ["crop"], "proposer": {"weights": "a.pt", "top": 20}}
IDENTITY = make_identity(options=OPTIONS, weights={"model": "1" * 64})


def test_slug():
    folders = {"refcoco+-val": "refcoco+-val", "file:birds": "file-birds", "../../etc": "etc", "a/b": "a-b"}
    assert {name: slug(name) for name in folders} == folders


@given(st.text(min_size=1))
def test_slug_is_always_one_folder_below(name):
    made = slug(name)
    assert made and len(made) <= 100 and made == slug(name)
    assert made.isascii() and not made.startswith(".") and not set(made) & set('/\\:\0*?"<>| ')


def test_differences_name_every_key():
    assert differences(IDENTITY, IDENTITY.model_copy()) == []
    options = {"views": ["crop", "blur"], "proposer": {"weights": "a.pt"}, "margin": 0.1}
    data = IDENTITY.data.model_copy(update={"fingerprint": "0" * 64})
    now = IDENTITY.model_copy(update={"options": options, "weights": {"model": "2" * 64}, "data": data, "seed": 1})
    assert differences(IDENTITY, now) == [
        "options.views: was ['crop'], is ['crop', 'blur']",
        "options.proposer.top: was 20, is not set",
        f"weights.model: was {'1' * 64!r}, is {'2' * 64!r}",
        f"data.fingerprint: was {'f' * 64!r}, is {'0' * 64!r}",
        "seed: was 0, is 1",
        "options.margin: was not set, is 0.1",
    ]
