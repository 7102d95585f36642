"""Replace modules inside a network.

This is the one way in which the techniques of `model.memory` and `model.speed` change how a layer computes: the replacement
takes over the original's parameters and child modules, so no weight is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch


def replace_module(root: torch.nn.Module, name: str, replacement: torch.nn.Module) -> None:
    """Put `replacement` in the place of the descendant of `root` that is called `name`, in the same train/eval mode."""
    parent_name, _, attribute = name.rpartition(".")
    parent = root.get_submodule(parent_name)
    replacement.train(getattr(parent, attribute).training)
    setattr(parent, attribute, replacement)


def replace_modules(root: torch.nn.Module, factories: Mapping[type, Callable[[Any], torch.nn.Module]]) -> None:
    """Replace every descendant of `root` whose exact type is a key by the result of its factory.

    A factory that cannot replace a module returns the module itself. Children are replaced before their parents.
    """
    names = [name for name, module in root.named_modules() if name and type(module) in factories]
    for name in reversed(names):
        module = root.get_submodule(name)
        replacement = factories[type(module)](module)
        if replacement is not module:
            replace_module(root, name, replacement)
