"""The course's cleaning as two data-juicer operators; ``clean_wishes.yaml`` puts them in order.

data-juicer's own near-duplicate operators split a text at spaces, of which Chinese has none, so they
find nothing or take everything for the same. These call the course's rules and compare characters.
What they compute stands in ``tianji_toolbox.dataset.juicer``, which every machine must be able to import.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import ray
from data_juicer.ops.base_op import OPERATORS, Deduplicator, Mapper

from tianji_helpers import wishes
from tianji_helpers.dataset import clean
from tianji_helpers.errors import CourseError
from tianji_toolbox.dataset import juicer

CANDIDATES = pa.schema([("bucket", pa.binary()), ("row", pa.int64()), ("output", pa.string())])
COUNTS = pa.schema([("opening", pa.string()), ("number", pa.int64())])
PAIRS = pa.schema(
    [("earlier", pa.int64()), ("later", pa.int64()), ("similarity", pa.float64()), ("same", pa.bool_())]
)


def columns(table: pa.Table, *names: str):
    """Return an iterator of the rows' values of some columns."""
    return zip(*(table[name].to_pylist() for name in names), strict=True)


def table_of(rows: list[tuple], schema: pa.Schema) -> pa.Table:
    """Return rows as a table of this schema, even if there are none."""
    return pa.Table.from_arrays(
        [pa.array([row[place] for row in rows], field.type) for place, field in enumerate(schema)],
        schema=schema,
    )


def gathered(dataset, schema: pa.Schema):
    """Bring a small dataset's rows here, one by one."""
    for table in dataset.iter_batches(batch_format="pyarrow"):
        yield from columns(table, *schema.names)


def decide(gone: dict[int, tuple[str, str]]):
    """Return a function that writes (rule, reason) into the rows of a table that go."""
    shared = ray.put(gone)

    def decided(table: pa.Table) -> pa.Table:
        verdicts = ray.get(shared)
        both = [verdicts.get(row, verdict) for row, *verdict in columns(table, "row", "rule", "reason")]
        for place, name in enumerate(("rule", "reason")):
            values = pa.array([verdict[place] for verdict in both], pa.string())
            table = table.set_column(table.column_names.index(name), name, values)
        return table

    return decided


@OPERATORS.register_module("wish_rules_mapper")
class WishRulesMapper(Mapper):
    """Mend ``output``; say in ``rule`` and ``reason`` why a row is rejected (empty: it is not).

    skipped_rules: names of rules to leave out, as ``--off`` of ``tianji clean``. The matrix of the
    course is read once, where the run is started, and travels with the operator.
    """

    _batched_op = True

    def __init__(self, skipped_rules: Sequence[str] = (), *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.off = juicer.checked(skipped_rules)
        self.matrix = wishes.load()

    def process_batched(self, samples):
        judge = juicer.judge(self.matrix, self.off)
        judged = [judge(*turn) for turn in zip(samples["input"], samples["output"], strict=True)]
        samples["before"] = samples["output"]
        return samples | {name: [getattr(one, name) for one in judged] for name in juicer.Judged._fields}


@OPERATORS.register_module("wish_deduplicator")
class WishDeduplicator(Deduplicator):
    """Keep what the rules let pass; of duplicates the earliest row, and of a common opening not too many.

    rejects: a new folder for the other rows as JSON Lines, each with rule and reason. skipped_rules,
    threshold: as ``--off`` and ``--threshold`` of ``tianji clean``. partitions: into how many parts the
    comparison is cut; one part must fit into a machine's memory. Pairs of duplicates are gathered where
    the run is started (about 450 bytes each); everything else stays on the machines that hold it.
    """

    _supported_exec_modes = ("ray",)

    def __init__(
        self,
        rejects: str,
        skipped_rules: Sequence[str] = (),
        threshold: float = 0.9,
        partitions: int = 200,
        *args,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.off = juicer.checked(skipped_rules, threshold)
        self.rejects = rejects
        self.threshold = threshold
        self.partitions = partitions

    def run(self, dataset, **_):
        if Path(self.rejects).is_dir() and any(Path(self.rejects).iterdir()):
            raise CourseError(f"{self.rejects} 里有上一次的结果；请清空，或换一个文件夹。")
        off, threshold = self.off, self.threshold  # the tasks below need not carry the operator

        def meet(table):
            passed = [(row, text) for row, text, rule in columns(table, "row", "output", "rule") if not rule]
            keys = juicer.buckets([text for _, text in passed], off, threshold)
            return table_of(
                [(key, *one) for one, some in zip(passed, keys, strict=True) for key in some], CANDIDATES
            )

        def compare(table):
            buckets = defaultdict(list)
            for key, row, text in columns(table, "bucket", "row", "output"):
                buckets[key].append((row, text))
            pairs = {pair for rows in buckets.values() for pair in juicer.alike(rows, off, threshold)}
            return table_of(list(pairs), PAIRS)

        dataset = dataset.materialize()
        found = (
            dataset.map_batches(meet, batch_format="pyarrow")
            .repartition(self.partitions, keys=["bucket"])
            .map_batches(compare, batch_format="pyarrow", batch_size=None)  # the whole part at once
        )
        gone = juicer.resolve(gathered(found, PAIRS), off)
        decided = dataset.map_batches(decide(gone), batch_format="pyarrow").materialize()
        if clean.OPENING not in off:
            decided = self.spread(decided)
        decided.filter(expr="rule != ''").write_json(self.rejects, force_ascii=False)
        return decided.filter(expr="rule == ''").drop_columns(["before", "rule", "reason", "opening"])

    def spread(self, dataset):
        """Reject the later rows of an opening that too many have."""

        def count(table):
            left = Counter(opening for opening, rule in columns(table, "opening", "rule") if not rule)
            return table_of(list(left.items()), COUNTS)

        counts: Counter = Counter()
        for opening, number in gathered(dataset.map_batches(count, batch_format="pyarrow"), COUNTS):
            counts[opening] += number
        crowded = juicer.crowded(counts)
        if not crowded:
            return dataset

        def find(table):
            left = columns(table, "opening", "row", "rule")
            return table_of(
                [(opening, row) for opening, row, rule in left if not rule and opening in crowded], COUNTS
            )

        gone = juicer.surplus(counts, gathered(dataset.map_batches(find, batch_format="pyarrow"), COUNTS))
        return dataset.map_batches(decide(gone), batch_format="pyarrow").materialize()
