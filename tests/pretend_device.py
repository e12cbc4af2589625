"""A device that is none: its tensors lie in ordinary memory, but mix with the CPU's as a GPU's would, not at all.

So what runs on it names every tensor that was left on the CPU, on a machine without a GPU. What it cannot show: speed,
memory, kernels, and anything asked of `torch.cuda`.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "pretend"
aten = torch.ops.aten
MOVES = {aten._to_copy, aten.copy_, aten._copy_from}
CPU_INDICES = {aten.index, aten.index_put, aten.index_put_, aten._unsafe_index, aten._index_put_impl_}


class _Backend(_DummyBackendModule):
    """Its random numbers are the CPU's."""

    @staticmethod
    def get_rng_state(_: object = None) -> Tensor:
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state: Tensor, _: object = None) -> None:
        torch.set_rng_state(state)


@functools.cache
def device() -> torch.device:
    """The device; torch knows one of its kind a process."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    return torch.device(NAME, 0)


class MixedDevices(AssertionError):
    """An operation on tensors of two devices, which a GPU refuses."""


class OnDevice(torch.Tensor):
    """Stands for the tensor `held`, which lies on a CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnDevice":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device(),
            requires_grad=False,
        )
        made.held = held
        return made

    def tolist(self) -> Any:
        """As on a GPU: copied, then read."""
        return self.cpu().tolist()

    def data_ptr(self) -> int:
        """Where the held tensor lies: equal for two that share it."""
        return self.held.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied: Tensor = OnDevice(self.held.detach().clone())
        if isinstance(self, nn.Parameter):
            copied = nn.Parameter(copied, requires_grad=self.requires_grad)
        memo[id(self)] = copied
        return copied

    def __repr__(self, *_: object, **__: object) -> str:
        return f"OnDevice({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class Factories(TorchDispatchMode):
    """Also tensors that are made on the device from nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class FromLists(TorchFunctionMode):
    """And tensors that are made there from Python numbers, which torch writes without asking anyone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            where = kwargs.pop("device")
            return func(*args, **kwargs).to(where)
        if func is Tensor.new_tensor and isinstance(args[0], OnDevice):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(args[0].device)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], OnDevice):
            args = (args[0], _as_index(args[1]), *args[2:])
        return func(*args, **kwargs)


def _as_index(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(_as_index(one) for one in index)
    return torch.tensor(index) if isinstance(index, list) else index


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on what the tensors hold; what comes out lies where a GPU would leave it."""
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
    asked = kwargs.get("device")
    away = any(isinstance(one, OnDevice) for one in tensors)
    if asked is not None:
        lands = torch.device(asked).type == NAME
        kwargs = kwargs | {"device": torch.device("cpu")}
    else:
        lands = away
    if not away and not lands:
        return func(*args, **kwargs)
    if away:
        _check(func, tensors)
    result = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    same = {id(one.held): one for one in tensors if isinstance(one, OnDevice)}
    kept = {id(one): one for one in tensors if not isinstance(one, OnDevice)}

    def put(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in same:  # written in place
            return same[id(value)]
        return OnDevice(value) if lands and id(value) not in kept else value

    return tree_map(put, result)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnDevice) else value


def _check(func: Any, tensors: list[Tensor]) -> None:
    packet = func.overloadpacket
    if packet in MOVES:
        return
    if packet in CPU_INDICES and isinstance(tensors[0], OnDevice):
        return
    strangers = [tuple(one.shape) for one in tensors if not isinstance(one, OnDevice) and one.dim() > 0]
    if strangers:
        raise MixedDevices(f"{func}: tensors of the CPU, {strangers}, beside tensors of the device")


@contextmanager
def pretended() -> Iterator[torch.device]:
    """Inside, the device may be used as any."""
    with FromLists(), Factories():
        yield device()
