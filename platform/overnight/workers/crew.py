"""The workers of an attempt: as many as the cluster carries, on the market that is wanted.

Distribution, placement and the detection of dead nodes are Ray's.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any

from overnight.workers.actor import Worker
from overnight.workers.cluster import NAMESPACE, carried
from overnight.workers.machines import (
    NODE_LABEL,
    alive_nodes,
    has_markets,
    known_nodes,
    say_draining,
)
from overnight.workers.member import Member

if TYPE_CHECKING:
    from overnight.engines.base import EngineSpec
    from overnight.workers.actor import Assignment
    from overnight.workers.backlog import Backlog
    from overnight.workers.buying import Buyer
    from overnight.workers.cluster import Carried, ClusterConfig
    from overnight.workers.machine_time import MachineTime

PREFIX = "engine:"


class Crew:
    """Hires workers and lets them go.

    Args:
        config: where workers run.
        spec: the engine that each of them starts.
        name: of the engine; workers of the same name are shared.
        assignment: what they are hired for.
        stays: whether they may outlive the run.
        buyer: says on which market to ask for workers, where machines have a label for that.

    Attributes:
        backlog: what is left to do, once that is known; before it is, no market can be chosen.
        members: those that are hired.
        gone: those that are lost or were let go.
        interrupted: how many lost their machines.
    """

    def __init__(
        self,
        config: ClusterConfig,
        spec: EngineSpec,
        *,
        name: str,
        assignment: Assignment,
        stays: bool,
        buyer: Buyer | None,
    ) -> None:
        self._config = config
        self._spec = spec
        self._name = f"{PREFIX}{name}"
        self._assignment = assignment
        self._stays = stays
        self._buyer = buyer
        self._market: str | None = None
        self._refused: set[str] = set()
        self._replaced = 0
        self._released = False
        self._nodes: list[dict[str, Any]] = []
        self._releasing: list[Any] = []
        self.backlog: Backlog | None = None
        self.members: list[Member] = []
        self.gone: list[Member] = []
        self.interrupted = 0

    def hire_early(self) -> None:
        """`hire_missing`, unless a market must be chosen, for which there must be a backlog."""
        self._nodes = known_nodes()
        if self._buyer is None or not has_markets(self._nodes):
            self._hire_missing()

    def hire_missing(self) -> None:
        """As many workers as the cluster carries now; those that run already come first."""
        self._nodes = known_nodes()
        self._hire_missing()

    def lease_again(self) -> None:
        """Ask for leases once more: those that were granted long ago may have ended meanwhile."""
        for member in self.members:
            member.leasing = member.handle.lease.remote(self._assignment)

    def wanted(self, member: Member) -> bool:
        """Whether it can be counted on, and is of the market that is wanted now."""
        return member.stays and not member.gives_way and member.market == self._market

    def has_taker(self) -> bool:
        """Whether there is somebody to take what others hand back."""
        return any(self.wanted(member) and member.ready for member in self.members)

    def forget(self, member: Member) -> None:
        """A worker is lost, or not needed any more."""
        self.members.remove(member)
        self.gone.append(member)
        # Ray may go on for a while to give the dead worker to whoever asks by its name.
        self._refused.add(member.name)

    def count_replacement(self, lost: Member) -> None:
        """One that was hired while it was not clear whether this one lives is needed now."""
        for member in self.members:
            if lost.node in member.avoids and not member.replaces:
                member.replaces = True
                self._replaced += 1
                return

    def make_room(self) -> None:
        """Make room for those that wait for a machine, if there are any."""
        if any(member.placing is not None for member in self.members):
            make_room(self._name)

    def spent(self, now: float) -> list[MachineTime]:
        """What the attempt's machines did, for the ledger, until `now` (monotonic seconds)."""
        return [
            member.spent(now, sum(other.node == member.node for other in self.members))
            for member in (*self.gone, *self.members)
            if member.node is not None
        ]

    def machine(self, node: str) -> dict[str, Any]:
        """What Ray knows of a machine, by its id; nothing if that is not known any more."""
        if not any(known["NodeID"] == node for known in self._nodes):
            self._nodes = known_nodes()
        return alive_nodes(self._nodes).get(node, {})

    def release(self) -> None:
        """Have the leases given back; `close` waits until those that were granted are."""
        if not self._released:
            self._released = True
            for member in self.members:
                if member.missing is None and not _refused(member.leasing):
                    attempt = self._assignment.attempt
                    answer = member.handle.release.remote(attempt, member.leasing)
                    self._releasing += [answer] if member.info else []

    def close(self) -> None:
        """End engines that must not outlive the run."""
        import ray

        if self._releasing:
            ray.wait(self._releasing, num_returns=len(self._releasing), timeout=10)
        if not self._stays:
            closing = [m.handle.close.remote() for m in self.members if m.missing is None]
            if closing:
                ray.wait(closing, num_returns=len(closing), timeout=20)

    def _hire_missing(self) -> None:
        import ray

        self._market = self._choose_market()
        self._replace_others()
        self._dismiss_needless()
        offer = carried(self._config, self._nodes, without=self._going_nodes(), market=self._market)
        prefix = f"{self._name}-{self._market}-" if self._market else f"{self._name}-"
        taken = {member.name for member in self.members} | self._refused
        warm = [n for n in ray.util.list_named_actors() if n.removeprefix(prefix).isdecimal()]
        names = itertools.chain(sorted(warm), (f"{prefix}{n}" for n in itertools.count()))
        elsewhere = self._usable()
        while sum(self.wanted(m) or m.awaited(elsewhere) for m in self.members) < offer.workers:
            name = next(name for name in names if name not in taken)
            taken.add(name)
            member = self._hire(name, offer)
            # Those that come for machines that were taken away start their engines for it.
            member.replaces = self._replaced < self.interrupted
            self._replaced += member.replaces
            self.members.append(member)

    def _choose_market(self) -> str | None:
        if self._buyer is None or self.backlog is None or not has_markets(self._nodes):
            return None
        done = sum(m.progress.rows for m in (*self.gone, *self.members) if m.progress)
        spent = sum(
            m.progress.seconds.get("useful", 0.0) for m in (*self.gone, *self.members) if m.progress
        )
        return self._buyer.decide(
            self.members,
            left=self.backlog.left(self.members),
            total=self.backlog.total,
            pace=done / spent if done and spent else None,
        )

    def _replace_others(self) -> None:
        """Workers of another market give way: at once if they wait, else when others are ready."""
        import ray

        others = [m for m in self.members if m.market != self._market and m.stays]
        for member in others:
            if member.node is None:
                ray.kill(member.handle)
                self.members.remove(member)
            elif not member.gives_way and any(m.ready and self.wanted(m) for m in self.members):
                member.gives_way = True
                member.handle.give_way.remote()

    def _dismiss_needless(self) -> None:
        """Workers without a place, that may not be put where there is one now, are hired anew."""
        import ray

        usable = self._usable()
        for member in [m for m in self.members if m.node is None and m.avoids and m.stays]:
            if member.avoids & usable or not usable:
                ray.kill(member.handle)
                self.members.remove(member)
                self._refused.add(member.name)

    def _going_nodes(self) -> set[str]:
        # Until Ray misses a machine, which takes a while, it counts those that are gone, too.
        lost = {member.node for member in self.gone if member.interrupted and member.node}
        return lost | {m.node for m in self.members if not m.stays and m.node}

    def _usable(self) -> set[str]:
        """Machines that can carry workers and stay."""
        return alive_nodes(self._nodes, self._market).keys() - self._going_nodes()

    def _avoided(self) -> frozenset[str]:
        """Machines that Ray might put a worker on, and must not, as long as there are others."""
        going = alive_nodes(self._nodes, self._market).keys() & self._going_nodes()
        return frozenset(going if self._usable() else ())

    def _hire(self, name: str, offer: Carried) -> Member:
        import ray

        options: dict[str, Any] = {
            "name": name,
            "namespace": NAMESPACE,
            "get_if_exists": True,
            "max_concurrency": 128,
            "max_restarts": 0,
            "num_cpus": 0 if offer.gpus else 1,
            "num_gpus": offer.gpus,
            "scheduling_strategy": "SPREAD",
        }
        if self._stays:
            options["lifetime"] = "detached"
        selector: dict[str, str] = {}
        if self._buyer is not None and self._market is not None:
            selector |= self._buyer.selector(self._market)
        if avoids := self._avoided():
            selector[NODE_LABEL] = f"!in({','.join(sorted(avoids))})"
        if selector:
            options["label_selector"] = selector
        handle: Any = (
            ray.remote(Worker)
            .options(**options)
            .remote(
                self._spec,
                idle_timeout_s=self._config.idle_timeout_s,
                lease_timeout_s=self._config.lease_timeout_s,
                leave=leave,
                tell=say_draining,
                place=placed_on,
                sharing=offer.sharing,
            )
        )
        return Member(
            name=name,
            handle=handle,
            market=self._market,
            avoids=avoids,
            placing=handle.placed.remote(),
            leasing=handle.lease.remote(self._assignment),
        )


def _refused(leasing: Any) -> bool:
    """Whether a request for a lease has failed: there is nothing to give back then."""
    import ray

    if leasing is None or not ray.wait([leasing], timeout=0)[0]:
        return False
    try:
        ray.get(leasing)
    except ray.exceptions.RayError:
        return True
    return False


def make_room(name: str) -> None:
    """Ask warm engines that nobody uses, other than those of a name, to give up their place."""
    import ray

    for other in ray.util.list_named_actors():
        if other.startswith(PREFIX) and not other.startswith(name):
            with contextlib.suppress(ValueError):
                ray.get_actor(other, namespace=NAMESPACE).make_room.remote()


def leave() -> None:
    """End the actor that this is called in, from any of its threads."""
    import ray

    ray.kill(ray.get_runtime_context().current_actor)


def placed_on() -> str:
    """Ray's id of the machine that this is called on."""
    import ray

    node: str = ray.get_runtime_context().get_node_id()
    return node
