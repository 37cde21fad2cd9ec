"""Every grounder except CLIP-VG; what each method brings is declared here, and imported when it is asked for."""

from bench.registry import Method

TWO_STAGE = Method("pipelines.two_stage.pipeline:two_stage", tasks="pipelines.two_stage.pipeline:tasks")
MDETR = Method("pipelines.mdetr.pipeline:mdetr", tasks="pipelines.mdetr.task:tasks")
