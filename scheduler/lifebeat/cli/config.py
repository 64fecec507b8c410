"""The commands that show and change settings: ``config``, ``setconfig`` and ``schema``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lifebeat.cli import console
from lifebeat.cli.console import DONE, PROBLEM
from lifebeat.errors import LifebeatError
from lifebeat.storage.safe_file import absolute

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from lifebeat.cli.application import Application
    from lifebeat.cli.options import CommandLine


def add_commands(line: CommandLine) -> None:
    """Add the commands of this family."""
    line.add("config", config).add_argument("--layers", action="store_true", help="with the value of each layer")
    setting = line.add("setconfig", setconfig)
    setting.add_argument("key", metavar="KEY", nargs="?", help="such as telemetryEnabled")
    setting.add_argument("value", metavar="VALUE", nargs="?", help="such as false")
    setting.add_argument("--unset", metavar="KEY", help="remove this key from the config file")
    line.add("schema", schema).add_argument("file", choices=["jobs", "config", "overlay"], help="the kind of file")


def config(args: argparse.Namespace) -> int:
    """Show the merged settings, and which layer set each; keys are masked."""
    from lifebeat.cli import layers
    from lifebeat.cli.application import Application

    application = Application(args)
    settings = application.settings
    if args.json:
        console.say_json(layers.as_list(settings, with_layers=args.layers))
    elif args.layers:
        console.say(layers.layers_as_table(settings, [layer.label for layer in application.source.layers()]))
    else:
        console.say(layers.as_table(settings))
    console.show_problems(settings.problems)
    return PROBLEM if settings.problems else DONE


def setconfig(args: argparse.Namespace) -> int:
    """Set one key in the config file, or remove one with --unset; every running process follows within seconds."""
    from lifebeat.cli import layers
    from lifebeat.cli.application import Application, check_known
    from lifebeat.settings.table import BY_NAME

    if (args.unset is None) != (args.key is not None and args.value is not None):
        raise console.UsageError("setconfig: expected KEY VALUE, or --unset KEY")
    name = str(args.unset or args.key)
    check_known(name)
    application = Application(args, remember=True)
    path = set_value(application, name, None if args.unset else args.value)
    settings = application.settings
    key, source = BY_NAME[name], settings.sources[name]
    value = layers.written(key, settings.value(name))
    if args.json:
        console.say_json({"file": str(path), "key": name, "value": value, "source": source})
        return DONE
    change = "is not set any more" if args.unset else "is set" if key.secret else f"is {args.value}"
    console.say(f"{path}: {name} {change}")
    if args.unset:
        console.say(f"{name} is now {layers.cell(value)} ({source})")
    elif absolute(source) != str(path):
        console.say(f"but {source} says otherwise, and wins: {name} is {layers.cell(value)}")
    return DONE


def set_value(application: Application, name: str, written: str | None) -> Path:
    """Set one key in the config file, or remove it with ``None``, and return the file.

    Raises:
        LifebeatError: There is no such key, the value is not valid, or the file is elsewhere or cannot be written.
    """
    from lifebeat import installation, record

    _refuse_elsewhere(application)
    state = record.state_dir(application.source, application.settings)
    path = installation.set_setting(application.config_dir, name, written, state_dir=state)
    if application.settings.opted_out:
        _withdraw(application)
    return path


def _withdraw(application: Application) -> None:
    """Delete what is pending; where a process holds the state just now, the setting is written all the same."""
    try:
        application.telemetry.withdrawn(application.context("setconfig"))
    except LifebeatError as error:
        console.complain(f"warning: what is pending is not deleted yet, and not sent either: {error}")


def _refuse_elsewhere(application: Application) -> None:
    """Keep an opt-out from going where no application hears of it."""
    from lifebeat import installation, record

    if installation.is_one(application.config_dir, record.state_dir(application.source, application.settings)):
        return
    place = absolute(application.config_dir)
    raise LifebeatError(
        f"{place}: nothing of Lifebeat is here (no config file, no job file, no state), so it would have no effect; "
        "name the application's config directory with --config DIR, or put an empty config.yaml into this one"
    )


def schema(args: argparse.Namespace) -> int:
    """Print the JSON Schema of a file, by which editors complete and check: jobs, config or overlay."""
    from lifebeat.jobfile.reader import packaged, shipped_data

    path = packaged().parent / "schema" / f"{args.file}.schema.json"
    console.say(shipped_data(path).decode(), end="")
    return DONE
