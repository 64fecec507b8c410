"""The reference's way: ``posthog-node`` in a program of our own, for a machine that has Node."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

from measure import ROOT, Side

PACKAGE = "posthog-node@5.70.0"
DIRECTORY = ROOT / ".venv" / "bench-node"
HEAD = """
const { performance } = require('node:perf_hooks')
const memory = () => process.resourceUsage().maxRSS / 1024
const tell = (figures) => console.log(JSON.stringify(figures))
const identity = '6c62b5ae-9d3c-4f4e-a9ab-8c1f4d1f0e52'
const properties = { instance_id: identity, app_version: '1.4.2', release: '1.4.2', node_version: process.version }
const begin = performance.now(), before = memory(), cpu = process.cpuUsage()
"""
CLIENT = """
const { PostHog } = require('posthog-node')
const client = new PostHog('phc_test', { host: process.env.TELEMETRY_HOST })
const capture = (event) => client.capture({ distinctId: identity, event, properties })
"""


@cache
def missing() -> str | None:
    """Why this side cannot be measured here; ``None`` if it can. Fetches the package once."""
    if os.environ.get("LIFEBEAT_BENCH_NODE") == "no":
        return "LIFEBEAT_BENCH_NODE says so"
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "Node and npm are not installed"
    if (DIRECTORY / "node_modules" / "posthog-node").exists():
        return None
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    (DIRECTORY / "package.json").write_text('{"private": true}\n', encoding="utf-8")
    install = ["npm", "install", "--no-audit", "--no-fund", "--silent", PACKAGE]
    done = subprocess.run(install, cwd=DIRECTORY, capture_output=True, text=True, timeout=300, check=False)
    return None if done.returncode == 0 else f"npm could not fetch {PACKAGE}"


def version() -> str | None:
    """Node's version and the package; ``None`` where they are missing."""
    if missing():
        return None
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return f"Node {node.removeprefix('v')} with {PACKAGE}"


def side(name: str, code: str, **environ: str) -> Side:
    """A program for Node, which finds the package wherever it runs."""
    modules = str(DIRECTORY / "node_modules")
    return Side(name, HEAD + code, {"NODE_PATH": modules, **environ}, command=["node"])
