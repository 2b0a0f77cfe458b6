"""Prices: a dated table that one can edit, and honest sums."""

import datetime

import pytest

from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis import prices, providers
from tianji_helpers.synthesis.prices import Price


@pytest.mark.parametrize("name", ["deepseek", "zhipu"])
def test_the_default_models_have_a_dated_price(name):
    price = prices.find(name, providers.PROVIDERS[name].model)
    assert price.date.year >= 2026 and price.cached <= price.input <= price.output


def test_own_machines_are_free_and_strangers_unknown():
    assert {prices.find(name, "x") for name in ("embedded", "local", "offline")} == {Price(0, 0, 0)}
    assert prices.find("deepseek", "deepseek-v9") is None and prices.find("nobody", "x") is None
    assert prices.show(None) == "价格未知"


def test_another_table(tmp_path):
    file = tmp_path / "prices.yaml"
    file.write_text("deepseek:\n  m: {date: 2026-01-31, input: 1, cached: 0.5, output: 4}\n")
    price = prices.find("deepseek", "m", file)
    assert price == Price(1, 0.5, 4, datetime.date(2026, 1, 31))
    assert price.cost(1000, 100, cached_tokens=400) == pytest.approx((600 + 200 + 400) / 1e6)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{input: 1}", "deepseek / m：缺少字段 cached"),
        ("{date: 2026-01-31, input: 一, cached: 0, output: 0}", "input 应当是不小于 0 的数.*一"),
        ("{date: 2026-01-31, input: -1, cached: 0, output: 0}", "input 应当是不小于 0 的数.*-1"),
        ("{date: 今天, input: 1, cached: 0, output: 0}", "date 应当是日期.*今天"),
        ("[", "YAML"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, words):
    file = tmp_path / "prices.yaml"
    file.write_text(f"deepseek:\n  m: {row}\n", encoding="utf-8")
    with pytest.raises(CourseError, match=words):
        prices.find("deepseek", "m", file)
