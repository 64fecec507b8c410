"""The commands that show and change settings: ``config``, ``setconfig`` and ``schema``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lifebeat.cli import console
from lifebeat.cli.console import DONE, PROBLEM

if TYPE_CHECKING:
    import argparse

    from lifebeat.cli.options import CommandLine


def add_commands(line: CommandLine) -> None:
    """Add the commands of this family."""
    line.add("config", config).add_argument("--layers", action="store_true", help="with what each layer said")
    setting = line.add("setconfig", setconfig)
    setting.add_argument("key", metavar="KEY", help="such as telemetryEnabled")
    setting.add_argument("value", metavar="VALUE", help="such as false")
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
    """Set one key in the config file; every running process follows within seconds."""
    from lifebeat import installation
    from lifebeat.cli import layers
    from lifebeat.cli.application import Application, check_known
    from lifebeat.settings.layers import ENABLED
    from lifebeat.settings.table import BY_NAME

    check_known(args.key)
    application = Application(args)
    path = installation.set_setting(application.config_dir, args.key, args.value)
    key, settings = BY_NAME[args.key], application.settings
    if args.key == ENABLED:
        application.telemetry.withdrawn(application.context("setconfig"))  # what is pending, if it is off now
    decided, value = settings.sources[args.key], layers.written(key, settings.value(args.key))
    overridden = decided != str(path)
    if args.json:
        console.say_json({"file": str(path), "key": args.key, "value": value, "source": decided})
        return DONE
    console.say(f"{path}: {args.key} is {'set' if key.secret else args.value}")
    if overridden:
        console.say(f"but {decided} says otherwise, and wins: {args.key} is {value}")
    return DONE


def schema(args: argparse.Namespace) -> int:
    """Print the JSON Schema of a file, by which editors complete and check: jobs, config or overlay."""
    from lifebeat.jobfile.reader import packaged

    path = packaged().parent / "schema" / f"{args.file}.schema.json"
    console.say(path.read_text(encoding="utf-8"), end="")
    return DONE
