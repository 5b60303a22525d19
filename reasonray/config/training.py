"""Training of the student: where its steps are computed, and what they are."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from reasonray.config.changes import free_fields
from reasonray.config.models import CountRange, bounds
from reasonray.config.optimisation import Optimisation, StepSize
from reasonray.config.section import Change


class Training(Optimisation):
    """Supervised fine-tuning of the student on the selected examples; the loss is on completion tokens only.

    What is free here affects placement and logging only, never the trained weights.
    """

    CHANGE: ClassVar[Change | None] = Change.EXTENDS

    COLLECTIVE_PATIENCE: ClassVar = timedelta(minutes=10)
    """Time that workers wait for one another in a collective, after which one of them must have died."""
    FILE_PATIENCE: ClassVar = timedelta(hours=2)
    """Time that workers wait for one another's files."""

    workers: Annotated[CountRange, Change.FREE] = 1
    """Number of workers, or [least, most] as the cluster has room for them. The steps stay the same."""
    gpus: Annotated[int, Change.FREE] = Field(0, ge=0)
    """GPUs per worker, each with a process of its own: 8 workers with 1 GPU and 1 worker with 8 are the same. 0 trains
    on CPU with gloo."""
    cpus: Annotated[float, Change.FREE] = Field(1.0, gt=0)
    """CPUs per worker."""
    shard: Annotated[PositiveInt | None, Change.FREE] = None
    """Processes that share one copy of weights and optimiser states, such as the 8 of a node; further processes hold
    further copies, and only gradients cross between copies, once a step (HSDP). By default all processes share one
    copy (FSDP)."""
    context: Annotated[PositiveInt, Change.FREE] = 1
    """Processes that share the tokens of each pack (Ulysses, Jacobs et al. 2023), which divides the memory of
    activations. The student's attention heads have to be divisible by it, and `shard` too."""
    epochs: PositiveInt = 3
    """Passes over the examples."""
    step: StepSize | None = None
    """Size of a step in full packs, over all workers: `{ packs = 64 }` or `{ tokens = 1_000_000 }`. It keeps GPUs busy,
    which `batch` does not. By default a step is `batch` examples."""
    batch: PositiveInt | None = 16
    """Examples per step, over all workers; unset where `step` is set."""
    max_tokens: PositiveInt = 4096
    """Tokens of the longest example, and of a pack. Longer examples are counted and left out, never truncated. By
    default 4096, or what the longest rollout that curation keeps takes with 1024 tokens of prompt, if that is more."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16: fp32 master weights, bf16 forward pass. With a learning rate below about 1e-5 short runs lose updates of
    bf16; use fp32, or a higher rate."""
    activation_checkpointing: Annotated[bool | Literal["selective", "offload"] | None, Change.FREE] = None
    """Compute activations again in the backward pass instead of keeping them: less memory, and a fourth to a third more
    time. "selective" keeps the results of attention and of every second product of matrices, the costliest to compute
    again: between the two in memory and time. "offload" also moves to main memory what true keeps, the input of each
    layer. By default true on GPUs, where full packs of long examples would not fit otherwise."""
    compile: Annotated[bool, Change.FREE] = False
    """Compile the student's layers (torch.compile), which takes half a minute or more at the start. Where products of
    matrices take most of the time, as on CPUs without AMX, steps are no faster; on GPUs it has not been measured. It
    needs a C++ compiler, and on GPUs Triton. It does not go with activation_checkpointing = "selective": the compiler
    itself chooses what to compute again."""
    cpu_offload: Annotated[bool | Literal["optimiser"], Change.FREE] = False
    """Keep weights, gradients and optimiser states in main memory, and move a layer to the GPU while it is computed.
    "optimiser" keeps AdamW's moments there alone, half of all, and moves them only for the update of a step."""
    zero_stage: Annotated[Literal[1, 3] | None, Change.FREE] = None
    """Sharding over workers (ZeRO, Rajbhandari et al. 2020). 3: everything; weights are gathered one layer at a
    time. 1: master weights and optimiser states; each worker holds all weights and gradients through a step, and
    workers communicate once per step. That suits a slow network, and costs 6 more bytes per weight in bf16. By default
    1 on CPUs and 3 on GPUs."""
    lora_rank: int = Field(0, ge=0)
    """Train adapters of this rank on all linear layers except the output (LoRA, Hu et al. 2021), and leave the model's
    weights as they are; 0 trains all weights. Adapters need about ten times the learning rate. The student is the model
    with the adapters merged in; the adapters are also stored by themselves."""
    lora_alpha: float = Field(32.0, gt=0)
    """Adapters are scaled by lora_alpha / lora_rank."""
    lora_targets: tuple[str, ...] = ()
    """Names of the linear layers that get adapters, such as `["q_proj", "v_proj"]`; by default all."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is set to zero in training."""
    rope: dict[str, Any] | None = None
    """Values that replace those of the student's rotary embeddings, and its max_position_embeddings: for examples that
    are longer than its positions, such as `{ rope_theta = 1_000_000.0, max_position_embeddings = 32768 }`. The exported
    student has them too. By default longer examples are refused."""
    checkpoints: PositiveInt = 3
    """Number of checkpoints, evenly spaced over the steps; each holds a model that can be evaluated."""
    patience: PositiveInt | None = None
    """Checkpoints in a row without a lower loss on the held-out examples (curation.validation) after which training
    ends. By default all steps are taken. With `student = "best"` the checkpoint before them is the student."""
    validate_every: Annotated[PositiveInt | None, Change.FREE] = None
    """Steps between measurements of the loss on the held-out examples (curation.validation), besides those at
    checkpoints; by default there are no others. `patience` and `student = "best"` go by the checkpoints alone."""
    keep: PositiveInt | None = None
    """Checkpoints whose models are kept: this many of the newest, and the one with the lowest loss on the held-out
    examples. By default all. A checkpoint that is gone cannot be evaluated later."""
    student: Literal["last", "best"] = "last"
    """Checkpoint that becomes the student: the last, or the one with the lowest loss on the held-out examples
    (curation.validation)."""
    average_last: PositiveInt = 1
    """Checkpoints whose weights are averaged to the student, the newest ones (Izmailov et al. 2018)."""
    save_minutes: Annotated[float, Change.FREE] = Field(30.0, gt=0)
    """Time between saved states, and so the most that a failure costs. Where the number of workers may vary, new nodes
    are also taken in at this interval."""
    async_save: Annotated[bool | None, Change.FREE] = None
    """Write states while training goes on, from a copy in main memory of 12 bytes a weight. By default on GPUs, unless
    main memory holds much already (cpu_offload)."""
    trackers: Annotated[tuple[Literal["tensorboard", "wandb", "mlflow"], ...], Change.FREE] = ()
    """Experiment trackers that get the figures of each step. What a tracker needs (an account, an address) it takes
    from its own environment variables."""
    max_failures: Annotated[int, Change.FREE] = Field(2, ge=0)
    """Worker failures after which training still resumes from the last saved state."""

    @model_validator(mode="before")
    @classmethod
    def _step_replaces_batch(cls, raw: Any) -> Any:
        in_packs = isinstance(raw, dict) and raw.get("step") is not None
        return {"batch": None} | raw if in_packs else raw

    @model_validator(mode="after")
    def _step_has_one_size(self) -> Self:
        if (self.step is None) == (self.batch is None):
            raise ValueError("a step is either `batch` examples or `step` packs or tokens; set one of them")
        return self

    @model_validator(mode="after")
    def _knobs_do_something(self) -> Self:
        if not self.lora_rank and (self.lora_targets or self.lora_dropout):
            raise ValueError("lora_targets and lora_dropout do nothing without adapters; set lora_rank, such as 16")
        if self.optimiser == "muon" and (self.lora_rank or self.cpu_offload):
            other = "adapters (lora_rank)" if self.lora_rank else "cpu_offload, which is for AdamW"
            raise ValueError(f'optimiser = "muon" does not go with {other}; set it to "adamw"')
        if self.compile and self.activation_checkpointing == "selective":
            raise ValueError('compile does not go with activation_checkpointing = "selective"; set it to true or false')
        self._refuse_policy_knobs_without_effect()
        self._refuse_averages_of_what_is_gone()
        if self.optimiser != "muon" and self.momentum != type(self).model_fields["momentum"].default:
            raise ValueError('momentum is Muon\'s; AdamW has betas, or set optimiser = "muon"')
        return self

    def _refuse_policy_knobs_without_effect(self) -> None:
        for knob in ("advantage", "ratio_clip", "kl") if self.objective == "sft" else ():
            if getattr(self, knob) != type(self).model_fields[knob].default:
                raise ValueError(f'{knob} does nothing with objective = "sft"; set it to "policy_gradient"')

    def _refuse_averages_of_what_is_gone(self) -> None:
        if self.average_last > (kept := min(self.checkpoints, self.keep or self.checkpoints)):
            raise ValueError(
                f"average_last = {self.average_last} checkpoints, and {kept} are made and kept; raise checkpoints, keep"
            )
        if self.average_last > 1 and (self.student == "best" or self.lora_rank):
            other = "adapters (lora_rank)" if self.lora_rank else 'student = "best", which is one checkpoint'
            raise ValueError(f"average_last does not go with {other}")

    @model_validator(mode="after")
    def _processes_form_a_mesh(self) -> Self:
        least, most = self.process_bounds
        shard = self.shard or most
        if (self.shard or self.context > 1) and least != most:
            raise ValueError("shard and context need a fixed number of workers, not [least, most]")
        if most % shard:
            raise ValueError(f"shard = {shard} does not divide the {most} processes (workers × gpus)")
        if shard % self.context:
            raise ValueError(f"context = {self.context} does not divide the {shard} processes that share the weights")
        return self

    @property
    def worker_bounds(self) -> tuple[int, int]:
        """The least and the most workers."""
        return bounds(self.workers)

    @property
    def process_bounds(self) -> tuple[int, int]:
        """The least and the most processes: one for each GPU, or without GPUs one for each worker."""
        least, most = self.worker_bounds
        return least * max(1, self.gpus), most * max(1, self.gpus)

    @property
    def step_size(self) -> str:
        """The size of a step in words."""
        if self.step is None:
            return f"{self.batch:,} examples"
        return f"{self.step.packs:,} packs" if self.step.packs else f"{self.step.tokens:,} tokens"

    @property
    def step_settings(self) -> dict[str, Any]:
        """The settings that determine the steps, as plain values; neither placement nor which checkpoints are kept."""
        return self.model_dump(
            mode="json", exclude={*free_fields(type(self)), "checkpoints", "keep", "student", "average_last"}
        )

    @property
    def backend(self) -> str:
        """The backend of the workers' process group."""
        if not self.gpus:
            return "gloo"
        return "cpu:gloo,cuda:nccl" if self.offloads_weights else "nccl"

    @property
    def recomputation(self) -> Literal["none", "some", "all"]:
        """Which activations the backward pass computes again."""
        chosen = self.gpus > 0 if self.activation_checkpointing is None else self.activation_checkpointing
        return "some" if chosen == "selective" else "all" if chosen else "none"

    @property
    def offloads_weights(self) -> bool:
        """Whether weights, gradients and optimiser states are in main memory."""
        return self.cpu_offload is True

    @property
    def recomputes_activations(self) -> bool:
        """Whether the backward pass computes activations again, some or all."""
        return self.recomputation != "none"

    @property
    def syncs_once_per_step(self) -> bool:
        """Whether workers gather weights and add up gradients once per step (ZeRO 1), not for every pack."""
        return (self.zero_stage or (3 if self.gpus else 1)) == 1

    @property
    def saves_while_training(self) -> bool:
        """Whether states are written while training goes on."""
        return self.gpus > 0 and not self.cpu_offload if self.async_save is None else self.async_save

    def shards(self, world: int) -> bool:
        """Return whether weights are sharded over `world` workers, or kept where only a sharded model can keep them."""
        return world > 1 or self.offloads_weights
