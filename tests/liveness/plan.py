"""What a run consists of, drawn from its seed alone: the nodes, and one step after the other.

Every step draws the same values whether it needs them or not, so that leaving steps away changes nothing for the rest.
"""

import random
from dataclasses import dataclass
from typing import ClassVar

MIB = 1024 * 1024
NODES = ("Aarhus", "Bergen", "Cork", "Delft", "Espoo")  #: names that no other word contains
NAMES = tuple(f"P{number:02}.pkg" for number in range(14))
STAGES = ("dev", "test", "prod")
TAGS = ("lab", "art")
LIES = ("page", "double", "flip", "cut", "short", "slow", "away")  #: what a proxy does to answers
FIRST = 8  #: packages that are there when the steps begin
SIZES = (0.3, 0.5, 0.8, 1.0, 1.3, 2.0, 3.0)  #: MiB
LARGE = 12.0  #: MiB
DISK = 96 * MIB  #: of a node whose disk can be filled


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What kind of node one is."""

    name: str
    mongo: bool
    workers: int  #: processes that do the jobs; 0: the one that serves does them
    stage: str
    refuse: str  #: a tag, or ""
    proxied: bool  #: whether its peers reach it through a proxy that can lie
    small_disk: bool  #: whether it has a disk of its own that can be filled


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that is done, with all the chances that it may need."""

    number: int
    act: str
    node: int  #: whom it is done to
    other: int  #: another node
    name: int  #: a package
    size: int  #: bytes of a new content
    stage: str
    tags: tuple[str, ...]
    lie: str
    count: int  #: 2 to 6, for what is done several times
    chance: float  #: 0 to 1, for a choice
    span_s: float  #: how long something lasts
    pause_s: float  #: before the next step

    def __str__(self) -> str:
        words = [
            f"{self.number:3} {self.act:14} {NODES[self.node]} {NODES[self.other]} {NAMES[self.name]}",
            f"{self.size / MIB:.1f} MiB {self.stage} {','.join(self.tags) or '-'} {self.lie} x{self.count}",
            f"chance {self.chance:.2f} span {self.span_s:.1f} s",
        ]
        return "  ".join(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run."""

    WEIGHTS: ClassVar[dict[str, int]] = {
        "upload": 14, "burst": 7, "put_back": 5, "withdraw": 4, "withdraw_and_upload": 6, "withdraw_race": 2,
        "restage": 4, "flap": 6, "retag": 4, "promote": 3, "verify": 1, "cancel": 2,
        "restore_version": 2, "scrub": 1,
        "part": 5, "rejoin": 6, "join": 4, "remove_node": 1, "reclassify": 2, "lie": 8,
        "kill": 5, "restart": 2, "freeze": 2, "leave_down": 3, "kill_worker": 4,
        "flip": 4, "lose": 2, "truncate": 1, "fill": 3, "backup": 4, "restore": 4, "restore_blind": 2,
    }  # fmt: skip

    seed: int
    nodes: tuple[Traits, ...]
    links: tuple[tuple[int, int], ...]  #: who joins whom at the start
    early: int  #: so many of the first uploads happen before the nodes join, the others behind that
    steps: tuple[Step, ...]

    @classmethod
    def draw(cls, seed: int, only: int | None = None) -> "Plan":
        """The plan of a seed, or its first steps.

        Even seeds have nodes of one process each; in odd ones some have workers beside them.
        """
        chance = random.Random(seed)
        stores = [True, True, False, False, chance.random() < 0.3]
        chance.shuffle(stores)
        helpers = [2, 2, 0, 0, 0] if seed % 2 else [0] * 5
        chance.shuffle(helpers)
        proxied = set(chance.sample(range(5), 2))
        small = chance.randrange(5)
        nodes = tuple(
            Traits(
                name=name, mongo=stores[index], workers=helpers[index],
                stage=chance.choices(STAGES, (2, 2, 6))[0],
                refuse=chance.choices(("", "art"), (4, 1))[0],
                proxied=index in proxied, small_disk=index == small,
            )
            for index, name in enumerate(NODES)
        )  # fmt: skip
        order = chance.sample(range(5), 5)
        links = [(order[index], order[chance.randrange(index)]) for index in range(1, 5)]
        for _ in range(chance.randrange(3)):
            first, second = chance.sample(range(5), 2)
            links.append((first, second))
        links = list({frozenset(pair): pair for pair in links}.values())
        early, count = chance.randrange(FIRST), chance.randrange(24, 40)
        steps = tuple(_step(chance, number, cls.WEIGHTS) for number in range(count))
        return cls(seed=seed, nodes=nodes, links=tuple(links), early=early, steps=steps[:only])

    def __str__(self) -> str:
        lines = [f"seed {self.seed}, {len(self.steps)} steps"]
        for node in self.nodes:
            kind = "mongo" if node.mongo else "sqlite"
            marks = [mark for mark in ("proxied", "small_disk") if getattr(node, mark)]
            lines.append(
                f"  {node.name}: {kind}, {node.workers} workers, {node.stage}"
                f"{f', refuses {node.refuse}' if node.refuse else ''}{''.join(f', {mark}' for mark in marks)}"
            )
        lines.append("  links " + " ".join(f"{NODES[a]}-{NODES[b]}" for a, b in self.links))
        return "\n".join([*lines, *map(str, self.steps)])


def _step(chance: random.Random, number: int, weights: dict[str, int]) -> Step:
    node, other = chance.sample(range(5), 2)
    size = LARGE if chance.random() < 0.05 else chance.choice(SIZES)
    return Step(
        number=number,
        act=chance.choices(list(weights), list(weights.values()))[0],
        node=node,
        other=other,
        name=chance.randrange(len(NAMES)),
        size=int(size * MIB) + chance.randrange(-1, 2),
        stage=chance.choices(STAGES, (2, 2, 6))[0],
        tags=tuple(tag for tag in TAGS if chance.random() < 0.2),
        lie=chance.choice(LIES),
        count=chance.randrange(2, 7),
        chance=chance.random(),
        span_s=round(chance.uniform(0.5, 3.0), 2),
        pause_s=round(chance.uniform(0.0, 0.2), 3),
    )
