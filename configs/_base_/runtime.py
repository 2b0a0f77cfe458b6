"""What every config shares: hooks, environment, logging. The seed is fixed; the original's was not."""

from mmengine.hooks import (
    CheckpointHook,
    DistSamplerSeedHook,
    IterTimerHook,
    LoggerHook,
    ParamSchedulerHook,
)

default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, log_metric_by_epoch=False, interval=10),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=50, max_keep_ckpts=3),
    sampler_seed=dict(type=DistSamplerSeedHook),
)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
visualizer = None
log_level = "INFO"
# means over the interval; a validation loss stands for itself, and mmengine's own pattern would take the mean
# of all that were measured so far
log_processor = dict(by_epoch=False, mean_pattern=r"^(loss|time|data_time|grad_norm|tokens)$")
load_from = None
resume = False
randomness = dict(seed=42, deterministic=False)
