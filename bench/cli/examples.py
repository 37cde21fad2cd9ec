"""Examples at the end of each command's help: two or three lines to copy; a test parses each."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "run": (
        "bench run -p yolo-clip -s shapes-val",
        "bench run -p yolo-clip,largest-proposal -s shapes-val,shapes-test --limit 50",
        "bench run -p mdetr -s refcoco-val --weights refcoco.pth --device cuda",
    ),
    "score": (
        "bench score results/runs/yolo-clip/shapes-val/0123abcd --protocol strict",
        "bench score --predictions boxes.jsonl -s refcoco-val --name MyModel",
        "bench score --predictions boxes.json -s file:mine.jsonl --xywh --key row",
    ),
    "frames": (
        "bench frames boxes.jsonl -s refcoco-val",
        "bench frames answers.json -s file:mine.jsonl --json",
    ),
    "compare": (
        "bench compare yolo-clip clipvg -s shapes-val",
        "bench compare clipvg/refcoco-val mdetr/refcoco-val --flips flips.jsonl",
        "bench compare clipvg/refcoco-val --published TransVG",
    ),
    "power": (
        "bench power -s refcoco-val --difference 0.5",
        "bench power yolo-clip clipvg -s shapes-val --difference 1",
    ),
    "speed": (
        "bench speed -p yolo-clip -s shapes-val --device cuda",
        "bench speed -p clipvg,mdetr -s refcoco-val --interleave --dtype bfloat16",
        "bench speed -p yolo-clip -s shapes-val --min-seconds 1 --min-batches 5",
    ),
    "audit": (
        "bench audit qwen internvl -s refcoco-testA --out audit.html",
        "bench audit mdetr clipvg -s shapes-val --json",
    ),
    "verify": ("bench verify", "bench verify yolo-clip/shapes-val --json"),
    "leaderboard": ("bench leaderboard", "bench leaderboard --results other/results --check"),
    "leaderboard submit": (
        "bench leaderboard submit handed-in/MyModel",
        "bench leaderboard submit handed-in/MyModel -s file:mine.jsonl",
    ),
    "leaderboard published": (
        "bench leaderboard published refcoco-val",
        "bench leaderboard published refcoco-testA --json",
    ),
    "leaderboard export": (
        "bench leaderboard export latex -o table.tex -s shapes-val",
        "bench leaderboard export csv -o board.csv --force",
    ),
    "table": (
        "bench table --splits refcoco,refcoco+,refcocog --against clipvg",
        "bench table --splits refcoco,referit --published QRNet --format latex -o table.tex",
    ),
    "report": (
        "bench report yolo-clip clipvg -s shapes-val",
        "bench report -s file:mine.jsonl -o mine.html --limit 100",
    ),
    "predict": (
        'bench predict -p yolo-clip -i photo.jpg -t "the left dog" -o answer.png',
        'bench predict -p clipvg --scene shapes-val/0 -t "the red circle" --json',
        "bench predict -p yolo-clip -I questions.jsonl -o answers.jsonl",
    ),
    "demo": ("bench demo", "bench demo -p yolo-clip,clipvg --port 7861 --no-open"),
    "train": (
        "bench train -p clipvg -s shapes-train",
        "bench train -p clipvg -s refcoco-train --labels template.jsonl --curriculum single -o weights",
        "bench train -p clipvg -s file:mine.jsonl --validate file:val.jsonl --on refcoco --set epochs=5",
    ),
    "label": (
        "bench label --source template -s shapes-train -o template.jsonl",
        "bench label --source caption --images photos -o caption.jsonl --limit 100",
    ),
    "label stats": (
        "bench label stats template.jsonl",
        "bench label stats template.jsonl caption.jsonl --sheet sheet.png --scenes 24",
    ),
    "label export": (
        "bench label export template.jsonl relation.jsonl -o lists",
        "bench label export template.jsonl -o lists --threshold 0.7",
    ),
    "label score": (
        "bench label score template.jsonl --scorer weights/clipvg.safetensors -s shapes-train",
        "bench label score --from unc_iou_result.pth -o reliability",
    ),
    "export": (
        "bench export -p clipvg --official clipvg.pth",
        "bench export -p clipvg --official clipvg.pth --weights weights/clipvg.safetensors --force",
    ),
    "data prepare": (
        "bench data prepare refcoco --annotations refer/data --images coco/train2014",
        "bench data prepare refcoco-val --images coco/train2014.zip",
    ),
    "data verify": ("bench data verify refcoco", "bench data verify file:mine.jsonl --threads 8"),
    "data list": ("bench data list", "bench data list --json"),
    "data review": (
        "bench data review refcoco-val --reviewed refcoco_val_reviewed.json",
        "bench data review refcoco-val --reviewed refcoco_val_reviewed.json --doubtful state=wrong",
    ),
    "data sheet": (
        "bench data sheet shapes-val",
        "bench data sheet refcoco-testA -o sheet.png --scenes 24",
    ),
    "data noisy-labels": (
        "bench data noisy-labels --kind template -o noisy.jsonl",
        "bench data noisy-labels --kind caption -o noisy.jsonl --wrong-object 0.4 --limit 100",
    ),
    "list": ("bench list", "bench list runs --results other/results"),
    "fetch": (
        "bench fetch yolo-clip",
        "bench fetch 'ViT-B-16 openai' yolo11x.pt facebook/detr-resnet-50",
        "bench fetch mdetr --on refcoco --dry-run",
    ),
    "doctor": ("bench doctor", "bench doctor -p clipvg"),
    "config show": ("bench config show run", "bench config show pipelines.clipvg"),
    "config schema": ("bench config schema", "bench config schema > bench.schema.json"),
}
