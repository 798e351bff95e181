"""What the schema of an operation says of the arguments of a call."""

import torch

from .evaluate import all_tensors


class Signature:
    """One operation's: which arguments are tensors, which are written, whether it draws random numbers."""

    def __init__(self, operation: torch._ops.OpOverload):
        schema = operation._schema
        self.name = schema.name.partition("::")[2]
        self.pointwise = torch.Tag.pointwise in operation.tags
        self.random = any(argument.name == "generator" for argument in schema.arguments)
        self._names = [argument.name for argument in schema.arguments]
        self._tensors = [
            i for i, a in enumerate(schema.arguments) if str(a.type) in ("Tensor", "Optional[Tensor]")
        ]
        self.takes_tensors = any("Tensor" in str(argument.type) for argument in schema.arguments)
        self._written = [(i, a.name, a.is_out) for i, a in enumerate(schema.arguments) if a.alias_info]
        # It writes its first argument, one tensor, and no other.
        only = [(i, is_out) for i, _, is_out in self._written]
        self.in_place = only == [(0, False)] and self._tensors[:1] == [0]

    def by_name(self, arguments: tuple, keywords: dict[str, object]) -> dict[str, object]:
        """The arguments that were given, by name."""
        return dict(zip(self._names, arguments, strict=False)) | keywords

    def written(
        self, arguments: tuple, keywords: dict[str, object]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The tensors that the call writes; those of them that were given as `out=`."""
        written: list[torch.Tensor] = []
        outs: list[torch.Tensor] = []
        for i, name, is_out in self._written:
            found = all_tensors(arguments[i] if i < len(arguments) else keywords.get(name))
            written += found
            if is_out:
                outs += found
        return written, outs

    def with_numbers(self, arguments: tuple) -> tuple:
        """A number where the schema has a tensor (`x + 1`) as the tensor of no dimension that promotes alike.

        The dispatcher hands it over as a number; a kernel that is called directly takes tensors alone.
        """
        for i in self._tensors:
            if i >= len(arguments):
                break
            value = arguments[i]
            if value is not None and not isinstance(value, torch.Tensor):
                others = [a for a in arguments if isinstance(a, torch.Tensor)]
                with torch._C._DisableTorchDispatch():  # a DTensor promotes as what it has
                    dtype = torch.result_type(others[-1] if others else 0.0, value)
                number = torch.scalar_tensor(value, dtype=dtype, device="cpu")
                arguments = (*arguments[:i], number, *arguments[i + 1 :])
        return arguments

    def seed(self, arguments: tuple, keywords: dict[str, object]) -> int | None:
        """Where the CUDA generator of a random operation stands before its kernel runs, as a seed for the
        CPU's.

        So the same numbers come where the program has set the generator back, as checkpointing does. None for
        other operations, and while a CUDA graph is captured, which draws at each replay.
        """
        if not self.random:
            return None
        generator = self.by_name(arguments, keywords).get("generator")
        if generator is None:
            devices = [t.device.index for t in all_tensors([arguments, list(keywords.values())]) if t.is_cuda]
            generator = torch.cuda.default_generators[devices[0] if devices else torch.cuda.current_device()]
        assert isinstance(generator, torch.Generator)
        try:
            return (generator.initial_seed() * 1_000_003 + generator.get_offset()) % (1 << 63)
        except RuntimeError:
            return None
