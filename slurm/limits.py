"""Compares the limits of a cluster file with those of the cluster: job arrays, the partition, its nodes and their GPUs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from slurm import queue
from slurm.cluster import Cluster


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: ``good``, or what to change; ``None``: worth knowing."""

    good: bool | None
    text: str
    change: str = ""


def pairs(text: str, separator: str) -> dict[str, str]:
    """Return the ``key = value`` of what scontrol prints."""
    parts = (item.partition("=") for item in text.split(separator))
    return {key.strip(): value.strip() for key, sign, value in parts if sign}


def limits(site: Cluster, config: dict[str, str]) -> Iterator[Finding]:
    """Compare the file with ``config``, what the whole cluster is set to."""
    largest = config.get("MaxArraySize", "")
    if largest.isdigit():
        good = site.array_limit <= int(largest)
        change = "" if good else f"{site.error('array_limit', '')}array_limit: {largest}"
        yield Finding(good, f"array_limit {site.array_limit}, MaxArraySize {largest}", change)
    wait = re.match(r"\d+", config.get("KillWait", ""))
    if wait:
        yield Finding(
            True, f"a job that is cancelled or requeued has {wait[0]} s to save; it is warned {site.warning_s} s before its time is over"
        )


def partition(site: Cluster) -> Iterator[Finding]:
    """Compare the file with its partition and the nodes there."""
    known = sorted(set(queue.call(["sinfo", "-h", "-a", "-o", "%R"]).split()))
    if site.partition not in known:
        yield Finding(False, f"partition {site.partition} does not exist", f"{site.error('partition', '')}one of {', '.join(known)}")
        return
    assert site.partition is not None
    shown = pairs(queue.call(["scontrol", "show", "partition", site.partition, "--oneliner"]), " ")
    up = shown.get("State") == "UP"
    yield Finding(up, f"partition {site.partition} is {shown.get('State')}", "" if up else "wait until it is up, or choose another one")
    longest = _minutes(shown.get("MaxTime", "UNLIMITED"))
    for model, minutes in site.minutes.items():
        good = longest is None or minutes <= longest
        change = "" if good else f"{site.error('time', '')}at most {shown['MaxTime']}; runs that need longer go on in the next job"
        yield Finding(good, f"time.{model}: {minutes} min, the partition allows {shown.get('MaxTime')}", change)
    for key, allowed in (("account", "AllowAccounts"), ("qos", "AllowQos")):
        value, names = getattr(site, key), shown.get(allowed, "ALL")
        if value is not None and names != "ALL" and value not in names.split(","):
            yield Finding(False, f"{key} {value} may not use {site.partition}", f"{site.error(key, '')}one of {names}")
    yield from _nodes(site)


def _minutes(text: str) -> int | None:
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text)
    if found is None:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + minutes


def _nodes(site: Cluster) -> Iterator[Finding]:
    lines = queue.call(["sinfo", "-h", "-N", "-p", str(site.partition), "-o", "%N|%c|%m|%G|%T"]).splitlines()
    nodes = [line.split("|") for line in lines if line.count("|") == 4]
    memory = max(site.memory_mib.values()) * site.runs_per_gpu
    fitting = [node for node in nodes if int(node[1].rstrip("+")) >= site.cpus and int(node[2].rstrip("+")) >= memory]
    if not fitting:
        largest = f"{max((int(node[1]) for node in nodes), default=0)} CPUs, {max((int(node[2]) for node in nodes), default=0)} MiB"
        where = site.error("memory", "")
        yield Finding(
            False,
            f"no node has {site.cpus} CPUs and {memory} MiB for a job",
            f"{where}the largest has {largest}: lower cpus, memory or runs_per_gpu",
        )
    if site.gpu == "none":
        if fitting:
            yield Finding(True, f"{len(fitting)} of {len(nodes)} nodes have the CPUs and the memory of a job; no GPU is asked for")
        return
    types = {name or "any" for node in fitting or nodes for name in re.findall(r"gpu(?::([A-Za-z][\w.-]*))?:\d+", node[3])}
    if not types or (site.gpu != "any" and site.gpu not in types):
        there = f"the types are {', '.join(sorted(types))}" if types else "there are none, so gpu: none or another partition"
        yield Finding(False, f"no node of {site.partition} has a GPU of type {site.gpu}", f"{site.error('gpu', '')}{there}")
        return
    if not fitting:
        return
    working = [node for node in fitting if node[4].rstrip("*~#!%$@^-") in ("idle", "mixed", "allocated", "completing")]
    yield Finding(True, f"{len(working)} of {len(nodes)} nodes work and have the CPUs, the memory and a GPU ({', '.join(sorted(types))})")
