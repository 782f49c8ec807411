"""Section [recipe] of bench.toml: what a user changes in all recipes.

It can change numbers, so it is part of the job ids it touches.

    [recipe]
    chunks = 4            # sub-batches of a gradient-cached step, to fit a large batch into few GPUs: the loss stays
                          # that of the whole batch, but batch norm sees one sub-batch at a time. Of some methods, or
                          # of one width of their networks, alone: chunks = { fnc = 8, "simclr 4x" = 4 }
    compile = true        # torch.compile for the encoder in pretraining: other roundings
    exact_views = true    # views of images on disk by Pillow through torchvision, digit for digit, but slow
    precision = "tf32"    # of all trainings that have one: "fp32", "tf32", "fp16" or "bf16"; docs/gpus.md has what a
                          # recipe takes by itself
    data = { imagenet = "imagenet-256" }   # read another data set in the place of a paper's, e.g. a packed one
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.spec import Precision


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What is changed in all recipes; nothing by default."""

    chunks: int = 1  # of all pretrainings but those of `chunks_of`
    chunks_of: tuple[tuple[str, int], ...] = ()  # (method, or method and width as in "simclr 4x", number)
    compile: bool = False
    exact_views: bool = False
    precision: Precision | None = None  # None: that of each recipe
    data: tuple[tuple[str, str], ...] = ()  # (data set of the paper, the one that is read in its place)

    def chunks_for(self, method: str, width: int) -> int:
        """Of a step of this method's networks of this width; the narrower choice counts."""
        named = dict(self.chunks_of)
        return named.get(f"{method} {width}x", named.get(method, self.chunks))

    def sentence(self) -> str:
        """For the notes of a table, "" without a choice."""
        said = [f"{other} in the place of {name}" for name, other in self.data]
        said += [f"{self.chunks} chunks a pretraining step"] if self.chunks > 1 else []
        said += [f"{number} chunks a step of {name}" for name, number in self.chunks_of if number > 1]
        said += ["compiled encoders"] if self.compile else []
        said += [f"{self.precision} in all trainings"] if self.precision else []
        said += ["views by Pillow"] if self.exact_views else []
        return f"Chosen in bench.toml: {', '.join(said)}." if said else ""


AS_PUBLISHED = Overrides()
