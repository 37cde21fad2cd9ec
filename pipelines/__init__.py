"""Every grounder except CLIP-VG; methods are declared here, and imported when they are used."""

from bench.registry import Method

TWO_STAGE = Method("pipelines.two_stage.pipeline:two_stage", tasks="pipelines.two_stage.pipeline:tasks")
TRANSVG = Method("pipelines.transvg.pipeline:transvg", tasks="pipelines.transvg.task:tasks")
DYNAMIC_MDETR = Method("pipelines.dynamic_mdetr.pipeline:dynamic_mdetr", tasks="pipelines.dynamic_mdetr.task:tasks")
HIVG = Method("pipelines.hivg.pipeline:hivg", tasks="pipelines.hivg.task:tasks")
ONEREF = Method("pipelines.oneref.pipeline:oneref", tasks="pipelines.oneref.mrefm:tasks")
RL_REFINE = Method("pipelines.rl_refine.pipeline:rl_refine", tasks="pipelines.rl_refine.task:tasks")
MDETR = Method("pipelines.mdetr.pipeline:mdetr", tasks="pipelines.mdetr.task:tasks")
DIFFUSION = Method("pipelines.diffusion.pipeline:diffusion", tasks="pipelines.diffusion.task:tasks")
