"""Measure the speed of a pipeline for `bench speed`: open it, warm it up, time every scenario, check, and store.

Nothing is stored before everything is measured, so a measurement that is stopped leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.acceleration import graphs_compiled
from bench.datasets.split import Split
from bench.evaluation.identity import hash_of, now, plain_card
from bench.evaluation.progress import message
from bench.memory import device_memory_mb, free, peak_memory_mb, restart_peaks
from bench.settings import Resolved
from bench.speed.check import SAMPLE, against_accuracy, against_run, compare
from bench.speed.conditions import Gpu, open_gpu, record_conditions, uneven
from bench.speed.record import BoxCheck, Energy, Memory, Rate, Rules, SpeedRecord, write
from bench.speed.resident import CAP_MB, make_resident
from bench.speed.scenarios import offline, search, single, stages, warm_up
from bench.speed.subject import REAL, Subject, open_subject


def measure(
    name: str,
    split: Split,
    resolved: Resolved,
    flags: Mapping[str, Any] | None = None,
    rules: Rules | None = None,
    cap_mb: float = CAP_MB,
    on: str | None = None,
) -> tuple[SpeedRecord, Path]:
    """Measure the speed of a pipeline on the split's images; returns the record and its file.

    `flags` are options that win over bench.toml, `cap_mb` how much of the split's images is kept in memory, `on` the
    data set whose lines of bench.toml hold. A limited split or smaller rules make a record that is not `full`. Raises
    what `open_pipeline` raises, DataError for a split without images, BenchError when the pipeline fails, RunError when
    nothing can be written.
    """
    rules, started = rules or Rules(), now()
    subject = open_subject(name, split, resolved, flags, lambda: make_resident(split, cap_mb), on)
    opened, settings, resident = subject.opened, resolved.settings, subject.resident
    identity, made_by = subject.identity(split), subject.made_by()
    gpu, no_gpu = open_gpu(subject.opened.context.device)
    stop = record_conditions(gpu)
    message(
        f"{name}: loaded in {opened.load_seconds:.1f} s, {len(resident.loaded)} images of {split.name} decoded; "
        "looking for the best batch"
    )
    # 1. Warm-up, and the fastest batch.
    warm_up(lambda n: subject.ground_batch(n, 1), rules)
    size, tried = search(subject, rules)
    message(f"{name}: offline, {size} images a batch, cold")
    free()
    cold, memory, energy, compiled = _cold_pass(subject, size, rules, gpu, no_gpu)
    rates, answered, proposals = [cold], subject.answered, subject.proposals_per_image
    # 2. The other scenarios: caches warm, single, and the stages in a pass of their own.
    caches = tuple(subject.caches)  # each alone, and all of them together where there are several
    for warm in [*((name,) for name in caches), *([caches] if len(caches) > 1 else [])]:
        message(f"{name}: offline, {' and '.join(warm)} warm")
        rates.append(offline(subject, size, rules, warm))
    message(f"{name}: single")
    one, answers = single(subject, rules)
    split_up = stages(subject, size, rules)
    # 3. What makes the measurement doubtful, and whether its boxes are the right ones.
    conditions, noisy = stop()
    noisy += [reason for rate in rates for reason in uneven(rate)]
    noisy += [f"{compiled} graphs were compiled during the measurement"] if compiled else []
    message(f"{name}: the boxes against those of the accuracy pass")
    subject.empty_caches()
    dtype, results = identity.dtype, Path(settings.results)
    checks = [against_accuracy(opened, resident, answered, dtype)]
    stored = against_run(resident, answered, identity, results)
    checks += [stored] if stored else []
    remarks = _remarks(subject, compare("", resident, answered, answers, dtype))
    record = SpeedRecord(
        name=name,
        identity=identity,
        settings_hash=hash_of(identity),
        started=started,
        finished=now(),
        card=plain_card(opened.card),
        **made_by,
        rules=rules,
        full=rules.full and not split.partial,
        images=resident.facts(subject.ids),
        single=one,
        offline=tuple(rates),
        batch_search=tried,
        stages=split_up,
        load_seconds=round(opened.load_seconds, 3),
        first_call_seconds=round(subject.first_call_seconds, 4),
        proposals_per_image=proposals,
        memory=memory,
        energy=energy,
        conditions=conditions,
        noisy=tuple(noisy),
        check=tuple(checks),
        valid=all(check.passed for check in checks),
        remarks=remarks,
    )
    if gpu:
        gpu.close()
    return record, write(record, results, "speed")


def _cold_pass(
    subject: Subject, size: int, rules: Rules, gpu: Gpu | None, no_gpu: str
) -> tuple[Rate, Memory, Energy, int]:
    """Measure the cold offline rate with memory and energy, and count the graphs that were compiled meanwhile."""
    device = subject.opened.context.device
    readings: list[tuple[int | None, str]] = []
    fresh, graphs = False, 0

    def around(measure: Callable[[], None]) -> None:
        nonlocal fresh, graphs
        fresh = restart_peaks(device)
        before = graphs_compiled()
        readings.append(gpu.energy_mj() if gpu else (None, no_gpu))
        measure()
        readings.append(gpu.energy_mj() if gpu else (None, no_gpu))
        graphs = graphs_compiled() - before

    rate = offline(subject, size, rules, around=around)
    subject.answer_at_least(SAMPLE, size)  # short rules may end before there is enough to compare
    # 1. Peaks of memory; what is unknown has its reason.
    unknown = {}
    process, why = gpu.process_memory_mb() if gpu else (None, no_gpu)
    if process is None:
        unknown["process_mb"] = why
    if gpu is None:
        unknown |= dict.fromkeys(("allocated_mb", "reserved_mb"), "measured on a CPU: see host_mb")
    host = peak_memory_mb() if fresh else None
    if host is None:
        unknown["host_mb"] = "the system does not let the peak begin anew, so it would be that of loading"
    memory = Memory(
        allocated_mb=device_memory_mb(device),
        reserved_mb=device_memory_mb(device, reserved=True),
        process_mb=process,
        host_mb=host,
        unknown=unknown,
    )
    # 2. Energy from the device's counter.
    (first, why_first), (last, why_last) = readings
    if first is None or last is None:
        energy = Energy(joules_per_expression=None, joules=None, expressions=None, unsupported=why_first or why_last)
        return rate, memory, energy, graphs
    joules, n = (last - first) / 1000, rate.expressions
    return rate, memory, Energy(joules_per_expression=joules / n, joules=joules, expressions=n), graphs


def _remarks(subject: Subject, alone: BoxCheck) -> tuple[str, ...]:
    """List what a reader should know beside the numbers."""
    remarks = []
    if subject.ids == REAL:
        remarks.append(
            "scenes keep the split's ids, for the answers depend on them: a cache of answers would go unnoticed"
        )
    if alone.n > alone.equal:
        remarks.append(
            f"with one expression at a time, {alone.n - alone.equal} of {alone.n} get another box than in a batch"
        )
    return tuple(remarks)
