"""The base class of layers: it finds parameters and sub-modules among its attributes."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ruvector_gnn import _core
from ruvector_gnn._core import Tensor
from ruvector_gnn.autograd import no_grad
from ruvector_gnn.errors import ConfigError, NotFoundError, ShapeError

__all__ = ["Module", "Parameter", "evaluation"]


class Parameter(Tensor):
    """A tensor that collects a gradient and that a `Module` counts as its own.

    >>> Parameter([1.0, 2.0]).requires_grad
    True
    """

    def __new__(cls, data: ArrayLike | Tensor, requires_grad: bool = True) -> Parameter:
        """Wrap `data`; a tensor made from data is shared, not copied."""
        return super().__new__(cls, data, requires_grad)


class _Modes(threading.local):
    """Modules in evaluation on this thread: by id, in how many blocks, and whether they train there."""

    def __init__(self) -> None:
        self.of: dict[int, tuple[int, bool]] = {}


_MODES = _Modes()


class Module:
    """Base class of layers, used as in PyTorch: assign parameters and sub-modules, define `forward`.

    >>> import ruvector_gnn as rg
    >>> class Twice(rg.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.map = rg.nn.Linear(2, 2, seed=0)
    ...     def forward(self, x):
    ...         return self.map(self.map(x))
    >>> model = Twice()
    >>> list(model.state_dict())
    ['map.weight', 'map.bias']
    >>> model([[1.0, 2.0]]).shape
    (1, 2)
    """

    _parameters: dict[str, Parameter]
    _modules: dict[str, Module]

    def __init__(self) -> None:
        """Call this before assigning parameters or sub-modules."""
        self.__dict__["_parameters"] = {}
        self.__dict__["_modules"] = {}
        self.training = True

    @property
    def training(self) -> bool:
        """Whether dropout drops: set by `train` and `eval` for all threads, by `evaluation` for its own."""
        mode = _MODES.of.get(id(self))
        return bool(self.__dict__.get("training", True)) if mode is None else mode[1]

    @training.setter
    def training(self, on: bool) -> None:
        mode = _MODES.of.get(id(self))
        if mode is None:
            self.__dict__["training"] = on
        else:
            _MODES.of[id(self)] = mode[0], on

    def __setattr__(self, name: str, value: Any) -> None:
        """Register parameters and sub-modules; everything else is a plain attribute."""
        if "_parameters" not in self.__dict__:
            if isinstance(value, Parameter | Module):
                raise ConfigError(f"call super().__init__() before assigning {name!r}")
            return object.__setattr__(self, name, value)
        # What takes the place of its own kind keeps its place in the order.
        if isinstance(value, Parameter):
            self._parameters[name] = value
        else:
            self._parameters.pop(name, None)
        if isinstance(value, Module):
            self._modules[name] = value
        else:
            self._modules.pop(name, None)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        """Forget a parameter, a sub-module or a plain attribute."""
        self._parameters.pop(name, None)
        self._modules.pop(name, None)
        object.__delattr__(self, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `forward`."""
        return self.forward(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the result; subclasses define it."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield this module and all below it, with their names."""
        yield prefix, self
        for name, module in self._modules.items():
            yield from module.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield each parameter once, with the first of its names."""
        seen: set[int] = set()
        for prefix, module in self.named_modules():
            for name, parameter in module._parameters.items():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield f"{prefix}.{name}" if prefix else name, parameter

    def parameters(self) -> Iterator[Parameter]:
        """Yield each parameter once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def num_parameters(self) -> int:
        """Count the values of all parameters."""
        return sum(parameter.size for parameter in self.parameters())

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.zero_grad()

    def train(self, mode: bool = True) -> Module:
        """Switch to training (dropout drops) or, with `mode=False`, to evaluation."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Switch to evaluation."""
        return self.train(False)

    def state_dict(self) -> dict[str, NDArray[np.float32]]:
        """Copy all parameters to NumPy arrays, by name."""
        return {name: parameter.numpy() for name, parameter in self.named_parameters()}

    def load_state_dict(self, mapping: Mapping[str, ArrayLike], strict: bool = True) -> None:
        """Overwrite parameters by those of the same name; nothing changes if anything does not fit.

        With `strict`, both sides must have the same names (`NotFoundError`). Shapes must agree
        (`ShapeError`).
        """
        own = self._named(mapping, strict)
        arrays = {name: _values(name, mapping[name]) for name in own}
        for name, array in arrays.items():
            _require_fit(name, own[name], array.shape, bool(np.isfinite(array).all()))
        # All memory is taken before the first parameter changes.
        copies = {name: Tensor(array) for name, array in arrays.items()}
        for name, copy in copies.items():
            own[name]._share(copy)

    def _named(self, names: Collection[str], strict: bool) -> dict[str, Parameter]:
        """Return the parameters among `names`; with `strict`, both sides must have the same."""
        own = dict(self.named_parameters())
        missing, unknown = sorted(own.keys() - names), sorted(set(names) - own.keys())
        if strict and (missing or unknown):
            raise NotFoundError(f"state_dict: missing {missing}, unknown {unknown}")
        return {name: parameter for name, parameter in own.items() if name in names}

    def save_weights(self, path: str | os.PathLike[str]) -> None:
        """Write all parameters to a safetensors file, replacing what is there in one step.

        The new file keeps the mode, the owner and the group of the one it replaces; a symbolic link stays,
        and the file it leads to is replaced. The metadata has a checksum of names, shapes and values, for
        `load_weights`.

        Raises `OSError` where the system refuses, and if `path` is a directory, a pipe, a socket or a device.
        """
        _core.save_tensors(os.fspath(path), list(self.state_dict().items()))

    def load_weights(self, path: str | os.PathLike[str], strict: bool = True, mmap: bool = False) -> None:
        """Read parameters from a safetensors file, as `load_state_dict`.

        With `mmap`, float32 weights stay in the mapped file, whose pages the system shares between
        processes and drops when memory is short; whatever writes a parameter (training,
        `load_state_dict`) gets a copy of it first, so that the file never changes. Values of other
        types, or off their alignment, are copied. The file may be replaced by `save_weights` or a
        rename meanwhile; it must not be shortened or written in place.

        The memory of the parameters' former values is released, so that the model takes the mapped file only.

        Raises `FormatError` for a damaged file, mapped or not (files of other programs have no checksum and
        load without it), and for a pipe, a socket or a device; `OSError` where the system refuses;
        `NotFoundError` and `ShapeError` as `load_state_dict`.

        >>> import pathlib, tempfile
        >>> import ruvector_gnn as rg
        >>> layer, other = rg.nn.Linear(2, 1, seed=0), rg.nn.Linear(2, 1, seed=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "layer.safetensors")
        ...     layer.save_weights(path)
        ...     other.load_weights(path, mmap=True)
        >>> bool((other.weight.numpy() == layer.weight.numpy()).all())
        True
        """
        if not mmap:
            self.load_state_dict(dict(_core.load_tensors(os.fspath(path))), strict)
            return
        mapped = {name: (shape, values) for name, shape, values in _core.map_tensors(os.fspath(path))}
        own = self._named(mapped, strict)
        for name, parameter in own.items():
            shape, values = mapped[name]
            _require_fit(name, parameter, shape, values._is_finite())
        for name, parameter in own.items():
            parameter._share(mapped[name][1])

    def extra_repr(self) -> str:
        """Describe the settings, for `repr`."""
        return ""

    def __repr__(self) -> str:
        """Show the settings and the sub-modules."""
        lines = [f"  ({name}): {module!r}".replace("\n", "\n  ") for name, module in self._modules.items()]
        inside = "\n" + "\n".join(lines) + "\n" if lines else ""
        return f"{type(self).__name__}({self.extra_repr()}{inside})"


def _values(name: str, value: ArrayLike | Tensor) -> NDArray[np.float32]:
    """Return what a state holds under a name: an array, or a tensor, whose gradient is of no interest."""
    array = value.numpy() if isinstance(value, Tensor) else _core.as_array(name, value)
    return np.asarray(array, dtype=np.float32)


def _require_fit(name: str, parameter: Parameter, shape: tuple[int, ...], finite: bool) -> None:
    if shape != parameter.shape:
        raise ShapeError(f"state_dict: {name} has shape {shape}, expected {parameter.shape}")
    if not finite:
        raise ShapeError(f"state_dict: {name} must be finite")


@contextmanager
def evaluation(module: Module) -> Iterator[None]:
    """Run `module` in evaluation and without a tape on this thread; each part is as it was afterwards.

    Other threads go on in the mode that `train` and `eval` have set: one can train while another evaluates.
    A thread that is started inside the block needs a block of its own.

    >>> import ruvector_gnn as rg
    >>> model = rg.nn.Dropout(0.5)
    >>> with evaluation(model):
    ...     model([1.0, 2.0]).numpy()
    array([1., 2.], dtype=float32)
    >>> model.training
    True
    """
    # The list keeps the parts alive, and with them their ids.
    parts = list({id(part): part for _, part in module.named_modules()}.values())
    before = [part.training for part in parts]
    modes = _MODES.of
    for part in parts:
        modes[id(part)] = modes.get(id(part), (0, False))[0] + 1, False
    try:
        with no_grad():
            yield
    finally:
        for part, training in zip(parts, before, strict=True):
            blocks = modes[id(part)][0] - 1
            if blocks:
                modes[id(part)] = blocks, training
            else:
                del modes[id(part)]
