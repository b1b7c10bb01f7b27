"""Recipes by name, changed by "key=value" settings: one mechanism for every kind of configuration."""

import ast
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from mdt_core.runs import Run

Config = TypeVar("Config")  # a frozen dataclass, or one that holds another: its keys count as the outer one's


def find_recipe(recipes: Mapping[str, Config], name: str, settings: Iterable[str] = ()) -> Config:
    """The configuration that a recipe's name stands for, with "key=value" settings applied.

    Raises:
        ValueError: no such recipe or key, or a value that is no Python literal of that key's kind.
    """
    if name not in recipes:
        raise ValueError(f"no recipe is called {name!r}: choose one of {', '.join(recipes)}")
    config = recipes[name]
    for setting in settings:
        config = apply_setting(config, setting)
    return config


def apply_setting(config: Config, setting: str) -> Config:
    """A copy with one "key=value" changed. ValueError as in `find_recipe`."""
    key, equals, text = setting.partition("=")
    kinds = _kinds(config)
    if not equals or key not in kinds:
        raise ValueError(f"--set {setting}: write key=value, with a key of {', '.join(sorted(kinds))}")
    kind, inner = kinds[key]
    owner = getattr(config, inner) if inner else config
    try:
        value = _as_kind(_literal(text), kind)
    except TypeError:
        was = getattr(owner, key)
        raise ValueError(f"--set {setting}: {key} is {was!r} here, {text} is of another kind") from None
    changed = replace(owner, **{key: value})
    return replace(config, **{inner: changed}) if inner else changed


def _kinds(config: Any) -> dict[str, tuple[Any, str]]:
    """Key -> the type that its field is annotated with, and the field of `config` that holds it, "" for itself."""
    kinds: dict[str, tuple[Any, str]] = {}
    for field in fields(config):
        if is_dataclass(field.type):
            kinds |= {each.name: (each.type, field.name) for each in fields(field.type)}
        else:
            kinds[field.name] = (field.type, "")
    return kinds


def _as_kind(value: Any, kind: Any) -> Any:
    """`value`, if it is of the annotated kind; a whole float is an int where one is asked for. Else TypeError."""
    for option in get_args(kind) if isinstance(kind, UnionType) else [kind]:
        plain, parts = get_origin(option) or option, get_args(option)
        if plain is int and isinstance(value, float) and value.is_integer():
            return int(value)
        fits = isinstance(value, int | float if plain is float else plain)
        if isinstance(value, bool) and plain is not bool:  # which Python calls an int
            fits = False
        if not fits:
            continue
        if plain is tuple:
            parts = [parts[0]] * len(value) if parts[-1] is ... else parts
            if len(value) == len(parts):
                return tuple(_as_kind(part, kind) for part, kind in zip(value, parts, strict=True))
            continue
        if plain is dict:
            return {_as_kind(key, parts[0]): _as_kind(part, parts[1]) for key, part in value.items()}
        return value
    raise TypeError


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def check_same_run(run: Run, config: dict, fixed: Collection[str]) -> None:
    """Whether a run folder can go on with a configuration; asked before anything of the folder is overwritten.

    Args:
        run: its folder may be new.
        config: what is to be written as its config.json.
        fixed: keys that a run keeps from its start to its end.

    Raises:
        ValueError: the folder holds another run, one that cannot go on, or one that has taken more steps than are
            asked for.
    """
    from mdt_core.training.checkpoints import resumable  # only now: --help needs nothing of torch

    done = max(run.checkpoints, default=0)
    if not done:
        return
    there, here = (each | each.get("training", {}) for each in (run.config, json.loads(json.dumps(config))))
    both = [key for key in fixed if key in there and key in here]
    if 2 * len(both) < len(fixed):  # an older run may lack one or two
        raise ValueError(f"{run.folder} holds a run of another kind of training: choose another --output-dir")
    if not resumable(run):
        raise ValueError(
            f"{run.folder} holds averaged weights alone, from which no run goes on: choose another --output-dir"
        )
    if differing := [f"{key} {there[key]} there and {here[key]} here" for key in both if there[key] != here[key]]:
        raise ValueError(f"{run.folder} holds another run, {', '.join(differing)}: choose another --output-dir")
    if here["steps"] < done and not here.get("minutes"):
        raise ValueError(
            f"{run.folder} has taken {done} steps, {here['steps']} are asked for: "
            f"go on with --set steps={done} or more, or choose another --output-dir"
        )
