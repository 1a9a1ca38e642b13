"""Laws of reading recipes: every fault at once, each with its file, its line, its field and what is allowed."""

import pytest

from ft_assets.core.errors import RecipeError
from ft_assets.recipes.base import base_identity
from ft_assets.recipes.load import SHIPPED, add_file, load_catalog

RECIPE = """\
# A recipe without a fault.
name: mine
base_model: embedded
seed: 1
data:
  max_length: 64
  overlong: drop
  split: {validation: 0.1, test: 0.1}
  sft:
    - rows
  test: [held_out]
adapter:
  method: lora
  r: 8
  lora_alpha: 16
  lora_dropout: 0.0
  target_modules: all-linear
sft:
  learning_rate: 1.0e-4
  global_batch_size: 8
  num_train_epochs: 1
evaluation:
  metric: exact_match
  few_shot: 0
  max_new_tokens: 8
publish:
  to: out
"""
SOURCES = """\
sources:
  rows:
    kind: instruction
    location: rows.jsonl
    format: alpaca
    licence: MIT
  held_out:
    kind: instruction
    location: held_out
    format: messages
    licence: MIT
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.yaml").write_text(RECIPE)
    (tmp_path / "sources.yaml").write_text(SOURCES)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "held_out").mkdir()
    (tmp_path / "held_out" / "2026-01.jsonl").write_text("{}\n")
    return tmp_path


def replace(file, old, new):
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def line_of(file, text):
    [number] = [number for number, line in enumerate(file.read_text().splitlines(), 1) if text in line]
    return number


def problems(folder):
    return load_catalog([folder]).problems


def test_files_without_a_fault_have_no_problem(folder):
    catalog = load_catalog([folder])
    assert catalog.problems == []
    assert catalog.recipe("mine").sft.learning_rate == 1e-4
    assert sorted(catalog.sources) == ["held_out", "rows"]
    assert list(catalog.batches("rows")) == ["rows"]
    assert list(catalog.batches("held_out")) == ["2026-01"]


def test_a_catalog_that_is_read_again_is_as_the_files_are_and_shares_nothing_with_the_first(folder):
    first = load_catalog([folder])
    first.drafts[folder / "mine.yaml"]["data"]["sft"].append("other")
    again = load_catalog([folder])
    assert again.drafts[folder / "mine.yaml"]["data"]["sft"] == ["rows"]
    assert (again.problems, sorted(again.sources)) == ([], ["held_out", "rows"])
    replace(folder / "mine.yaml", "seed: 1", "seed: 2")
    assert load_catalog([folder]).recipe("mine").seed == 2


def test_the_shipped_recipes_have_no_problem():
    catalog = load_catalog([SHIPPED])
    assert catalog.problems == []
    assert catalog.recipes
    for name in catalog.recipes:
        assert catalog.recipe(name).name == name
    for name in catalog.sources:
        assert catalog.batches(name)


# What stands in the recipe, what is put in its place, the field the problem names, and words of its text.
FAULTS = {
    "a typo": (
        "  learning_rate: 1.0e-4",
        "  learning_rate: 1.0e-4\n  warmup_step: 3",
        "sft.warmup_step",
        "did you mean",
        "warmup_step:",
    ),
    "an unknown field": ("seed: 1", "seed: 1\nzzz: 2", "zzz", "base_model, chat_template, seed", "zzz:"),
    "a value below its bound": ("  r: 8", "  r: 0", "adapter.r", "greater than or equal to 1", "r: 0"),
    "a value above its bound": ("1.0e-4", "7", "sft.learning_rate", "less than or equal to 1", "learning_rate:"),
    "a share above half": ("validation: 0.1", "validation: 0.6", "data.split.validation", "0.5", "split:"),
    "a word that is no number": ("  max_length: 64", "  max_length: long", "data.max_length", "integer", "max_length:"),
    "a fraction for a count": ("  max_length: 64", "  max_length: 64.5", "data.max_length", "integer", "max_length:"),
    "an unknown choice": ("overlong: drop", "overlong: cut", "data.overlong", "'truncate' or 'chunk'", "overlong:"),
    "a mapping that is a word": ("publish:\n  to: out", "publish: out", "publish", "dictionary", "publish:"),
    "no repository": ("  to: out", "  to: hub://model", "publish.to", "hub://org/name", "to: hub"),
    "a place that cannot be written": (
        "  to: out",
        "  to: https://x.org/m",
        "publish.to",
        "hub://org/name",
        "to: http",
    ),
    "an unknown protocol": ("  to: out", "  to: gopher://x/m", "publish.to", "s3://bucket", "to: gopher"),
    "a form given twice": ("publish:", "quantize: [int8, int8]\npublish:", "quantize", "twice: int8", "quantize:"),
    "a metric given twice": (
        "metric: exact_match",
        "metric: exact_match\n  metrics: [rouge_l, rouge_l]",
        "evaluation.metrics",
        "twice: rouge_l",
        "metrics:",
    ),
    "a task given twice": (
        "metric: exact_match",
        "metric: exact_match\n  lm_eval: [arc, arc]",
        "evaluation.lm_eval",
        "twice: arc",
        "lm_eval:",
    ),
    "no licence of the Hub": ("  to: out", "  to: out\n  license: My Own", "publish.license", "pattern", "license:"),
    "a list that is a word": ("test: [held_out]", "test: held_out", "data.test", "list", "test: held_out"),
    "a missing field": ("seed: 1\n", "", "seed", "no default", None),
    "a missing inner field": ("  r: 8\n", "", "adapter.r", "no default", "adapter:"),
    "NaN": ("1.0e-4", ".nan", "sft.learning_rate", "finite", "learning_rate:"),
    "infinity": (
        "num_train_epochs: 1",
        "num_train_epochs: .inf",
        "sft.num_train_epochs",
        "finite",
        "num_train_epochs:",
    ),
    "an unknown adapter method": ("method: lora", "method: loraa", "adapter.method", "'prompt_tuning'", "method:"),
    "no adapter method": ("  method: lora\n", "", "adapter.method", "no default", "adapter:"),
    "a field of another adapter method": (
        "  r: 8\n",
        "  r: 8\n  num_virtual_tokens: 4\n",
        "adapter.num_virtual_tokens",
        "method, r, lora_alpha",
        "num_virtual_tokens:",
    ),
    "an adapter target that is a number": ("all-linear", "5", "adapter.target_modules", "", "target_modules:"),
    "a name that climbs": ("name: mine", "name: ../mine", "name", "pattern", "name: "),
    "a name with a space": ("name: mine", "name: my recipe", "name", "pattern", "name: "),
    "a name with an at": ("name: mine", "name: mine@2", "name", "pattern", "name: "),
    "a name with a capital": ("name: mine", "name: Mine", "name", "pattern", "name: "),
    "an empty name": ("name: mine", "name: ''", "name", "pattern", "name: "),
    "a source name that climbs": ("    - rows", "    - ../rows", "data.sft[0]", "pattern", "- ../rows"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_file_line_field_and_remedy(folder, fault):
    old, new, field, allowed, at = FAULTS[fault]
    file = folder / "mine.yaml"
    replace(file, old, new)
    [problem] = problems(folder)
    assert (problem.file, problem.field) == (str(file), field)
    assert problem.line == (line_of(file, at) if at else 1)
    assert allowed in problem.allowed
    assert problem.found


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("  test: [held_out]", "  test: [rows]", "both trained on and evaluated on"),
        ("  test: [held_out]", "  test: []", "data.test is empty"),
        ("  sft:\n    - rows\n", "", "stage sft has no source"),
        ("  test: [held_out]", "  test: [held_out]\n  epochs: {rowz: 2}", "epochs names rowz, which is no source"),
        ("  test: [held_out]", "  test: [held_out]\n  epochs: {held_out: 2}", "epochs names held_out"),
        ("  test: [held_out]", "  test: [held_out]\n  mixture: {rowz: 2}", "mixture names rowz, which is no source"),
        ("  test: [held_out]", "  test: [held_out]\n  epochs: {rows: 2}\n  mixture: {rows: 2}", "both name rows"),
        ("    - rows\n", "    - rows\n    - more\n  mixture: {rows: 2}\n", "mixture gives more no weight"),
        ("sft:\n  learning_rate: 1.0e-4\n  global_batch_size: 8\n  num_train_epochs: 1\n", "", "trains something"),
    ],
)
def test_fields_that_do_not_fit_together_are_named(folder, old, new, found):
    replace(folder / "mine.yaml", old, new)
    [problem] = problems(folder)
    assert problem.file == str(folder / "mine.yaml")
    assert found in problem.found


def test_a_key_in_a_url_is_refused_and_not_repeated(folder):
    replace(folder / "mine.yaml", "  to: out", "  to: s3://key:hidden@bucket/models")
    [problem] = problems(folder)
    assert problem.field == "publish.to"
    assert "without a user or a key" in problem.allowed
    assert "hidden" not in str(problem)


@pytest.mark.parametrize(
    ("gate", "field", "told"),
    [
        (
            "[sft.exact_match >= 0.5, sft.exact_match]",
            "gate[1]",
            "at letter 16: found the end; allowed: one of <= >= < >",
        ),
        ("[sft.exact_mach >= 0.5]", "gate[0]", "did you mean sft.exact_match"),
        ("[policy.exact_match >= 0.5]", "gate[0]", "policy.exact_match is no number of this recipe"),
        ("[sft not worse than incumbent at 95% on rouge_l]", "gate[0]", "rouge_l is no metric of a comparison"),
        ("[merged better than incumbent at 95%]", "gate[0]", "left stands candidate, sft"),
        ("[safety.refusal_drop <= 0]", "gate[0]", "is no number of this recipe, but is where it has data.safety"),
        ("[forgetting.perplexity_ratio <= 1.1]", "gate[0]", "where it has data.general_text"),
        ("[memorization.rise <= 0.1]", "gate[0]", "where it has evaluation.memorization"),
        ("[reward.win_rate > 0.5]", "gate[0]", "where it has a reward stage"),
        ("[sft.exact_match >= 0.5, sft.exact_match>=0.50]", "gate", "each once; found twice: sft.exact_match >= 0.5"),
        ("sft.exact_match >= 0.5", "gate", "a valid list"),
    ],
)
def test_a_condition_that_cannot_be_judged_is_named_when_the_recipe_is_loaded(folder, gate, field, told):
    replace(folder / "mine.yaml", "publish:", f"gate: {gate}\npublish:")
    [problem] = problems(folder)
    assert problem.field == field
    assert problem.line == line_of(folder / "mine.yaml", "gate:")
    assert told in problem.allowed


@pytest.mark.parametrize(
    "condition",
    [
        "sft.exact_match >= base_zero_shot.exact_match + 0.02",
        "candidate not worse than incumbent at 95%",
        "merged.drop <= 0.01",
        "candidate.usd_per_1000_requests <= 0.5 * base_zero_shot.usd_per_1000_requests",
    ],
)
def test_a_condition_on_what_the_recipe_has_is_taken(folder, condition):
    replace(folder / "mine.yaml", "publish:", f"gate: ['{condition}']\npublish:")
    assert problems(folder) == []


def test_a_gate_of_a_recipe_that_trains_nothing_is_no_fault_of_its_own(folder):
    sft = "sft:\n  learning_rate: 1.0e-4\n  global_batch_size: 8\n  num_train_epochs: 1\n"
    replace(folder / "mine.yaml", sft, "gate: [sft.exact_match >= 0.5]\n")
    [problem] = problems(folder)
    assert "a recipe trains something" in str(problem)


@pytest.mark.parametrize(
    ("name", "taken"), [("candidate.lm_eval.ARC.acc", True), ("sft.lm_eval.5", True), ("merged.lm_eval.arc.acc", False)]
)
def test_tasks_of_lm_eval_may_be_named_where_they_are_run(folder, name, taken):
    replace(folder / "mine.yaml", "publish:", f"gate: ['{name} > 0.5']\npublish:")
    assert len(problems(folder)) == 1
    replace(folder / "mine.yaml", "  metric: exact_match", "  metric: exact_match\n  lm_eval: [ARC]")
    assert len(problems(folder)) == (0 if taken else 1)


@pytest.mark.parametrize("times", ["0", "-1", "100.5", ".nan", ".inf", "many"])
def test_how_often_a_source_is_seen_is_bounded(folder, times):
    replace(folder / "mine.yaml", "  test: [held_out]", f"  test: [held_out]\n  epochs: {{rows: {times}}}")
    [problem] = problems(folder)
    assert problem.field == "data.epochs.rows"


def test_a_recipe_with_a_fault_cannot_be_had_by_any_of_its_names(folder):
    (folder / "mine.yaml").rename(folder / "another-file-name.yaml")
    replace(folder / "another-file-name.yaml", "  r: 8", "  r: 0")
    for name in ("mine", "another-file-name"):
        with pytest.raises(RecipeError) as raised:
            load_catalog([folder]).recipe(name)
        assert [problem.field for problem in raised.value.problems] == ["adapter.r"], name


def test_a_source_that_is_not_declared_is_named_with_its_line(folder):
    file = folder / "mine.yaml"
    replace(file, "    - rows", "    - rowz")
    with pytest.raises(RecipeError) as raised:
        load_catalog([folder]).recipe("mine")
    [problem] = raised.value.problems
    assert (problem.file, problem.line, problem.field) == (str(file), line_of(file, "- rowz"), "data.sft[0]")
    assert "rowz" in problem.found
    assert "did you mean rows?" in problem.found


def test_a_source_of_another_kind_is_named_with_those_that_fit(folder):
    file = folder / "mine.yaml"
    replace(file, "    - rows", "    - words")
    text = "sources: {words: {kind: text, location: data, format: text, licence: MIT}}"
    (folder / "more.yaml").write_text(text)
    with pytest.raises(RecipeError) as raised:
        load_catalog([folder]).recipe("mine")
    [problem] = raised.value.problems
    assert (problem.file, problem.line, problem.field) == (str(file), line_of(file, "- words"), "data.sft[0]")
    assert "'words', a source of kind text" in problem.found
    assert problem.allowed.startswith("kind instruction: ")
    assert "rows" in problem.allowed


def test_a_recipe_that_is_not_there_is_named_with_what_is(folder):
    with pytest.raises(RecipeError) as raised:
        load_catalog([folder]).recipe("minne")
    [problem] = raised.value.problems
    assert "did you mean mine?" in problem.found
    assert "mine" in problem.allowed


def test_a_fault_of_a_source_is_shown_to_the_recipe_that_names_it(folder):
    file = folder / "sources.yaml"
    replace(file, "format: alpaca", "format: alpaka")
    with pytest.raises(RecipeError) as raised:
        load_catalog([folder]).recipe("mine")
    assert (str(file), line_of(file, "alpaka"), "sources.rows.format") in [
        (problem.file, problem.line, problem.field) for problem in raised.value.problems
    ]


SOURCE_FAULTS = {
    "a format of another kind": ("format: alpaca", "format: preference", "sources.rows", "rows:"),
    "an unknown kind": (
        "  rows:\n    kind: instruction",
        "  rows:\n    kind: instructions",
        "sources.rows.kind",
        "kind: instructions",
    ),
    "no licence": ("format: alpaca\n    licence: MIT", "format: alpaca", "sources.rows.licence", "rows:"),
    "a typo": (
        "format: alpaca",
        "format: alpaca\n    min_character: 3",
        "sources.rows.min_character",
        "min_character:",
    ),
    "bounds the wrong way": (
        "format: alpaca",
        "format: alpaca\n    max_characters: 3\n    min_characters: 4",
        "sources.rows",
        "rows:",
    ),
    "a name that climbs": ("  rows:", "  ../rows:", "sources.../rows", "../rows:"),
    "a name with a space": ("  rows:", "  my rows:", "sources.my rows", "my rows:"),
    "a name with an at": ("  rows:", "  rows@2:", "sources.rows@2", "rows@2:"),
}


@pytest.mark.parametrize("fault", SOURCE_FAULTS)
def test_a_fault_of_a_source_is_named_with_file_line_and_field(folder, fault):
    old, new, field, at = SOURCE_FAULTS[fault]
    file = folder / "sources.yaml"
    replace(file, old, new)
    [problem] = problems(folder)
    assert (problem.file, problem.line, problem.field) == (str(file), line_of(file, at), field)


def test_a_format_of_another_kind_says_which_fit(folder):
    replace(folder / "sources.yaml", "format: alpaca", "format: preference")
    [problem] = problems(folder)
    assert "alpaca, messages" in problem.found


def test_a_source_declared_twice_is_named_where_it_stands_again(folder):
    again = folder / "zz.yaml"
    again.write_text("# mine\n" + SOURCES)
    found = problems(folder)
    assert [(problem.file, problem.line, problem.field) for problem in found] == [
        (str(again), 3, "source rows"),
        (str(again), 8, "source held_out"),
    ]
    assert all(str(folder / "sources.yaml") in problem.found for problem in found)


def test_a_recipe_declared_twice_is_nobodys(folder):
    (folder / "zz.yaml").write_text(RECIPE.replace("seed: 1", "seed: 2"))
    catalog = load_catalog([folder])
    assert [(problem.file, problem.line) for problem in catalog.problems] == [(str(folder / "zz.yaml"), 2)]
    with pytest.raises(RecipeError, match=r"zz\.yaml"):
        catalog.recipe("mine")


def test_a_source_declared_twice_is_nobodys(folder):
    (folder / "zz.yaml").write_text(SOURCES)
    catalog = load_catalog([folder])
    for ask in (lambda: catalog.source("rows"), lambda: catalog.batches("rows"), lambda: catalog.recipe("mine")):
        with pytest.raises(RecipeError, match=r"zz\.yaml:2: source rows"):
            ask()


NOT_YAML = {
    "an open bracket": (b"name: mine\ndata: [rows\n", "YAML"),
    "a tab": (b"name: mine\ndata:\n\tsft: 1\n", "YAML"),
    "two documents": (b"name: mine\n---\nname: other\n", "YAML"),
    "an unknown alias": (b"name: *mine\n", "YAML"),
    "an unknown tag": (b"name: !secret mine\n", "YAML"),
    "a Python object": (b"name: !!python/object/apply:os.getcwd []\n", "YAML"),
    "a date that is none": (b"name: mine\nseed: 2026-13-41\n", "YAML"),
    "a list": (b"- name: mine\n", "file"),
    "a word": (b"mine\n", "file"),
    "nothing": (b"", "file"),
    "only a comment": (b"# mine\n", "file"),
    "not UTF-8": (b"name: \xff\xfe\n", "file"),
    "a NUL": (b"name: a\x00b\n", "YAML"),
    "a mapping as a key": (b"name: mine\n? [a, b]\n: c\n", None),
    "aliases that multiply": (
        b"a: &a [" + b"1," * 99 + b"]\nb: &b [" + b"*a," * 99 + b"]\nc: [" + b"*b," * 99 + b"]\n",
        "YAML",
    ),
    "a bool that is none": (b"name: !!bool maybe\n", "YAML"),
    "a mapping inside itself": (b"name: mine\ndata: &a\n  sft: *a\n", None),
}


@pytest.mark.parametrize("fault", NOT_YAML)
def test_what_is_no_yaml_mapping_is_a_problem_and_hides_no_other_file(folder, fault):
    text, field = NOT_YAML[fault]
    (folder / "aa.yaml").write_bytes(text)
    catalog = load_catalog([folder])
    assert {problem.file for problem in catalog.problems} == {str(folder / "aa.yaml")}
    if field:
        assert [problem.field for problem in catalog.problems] == [field]
    assert catalog.recipe("mine").seed == 1


def test_a_yaml_fault_has_its_line(folder):
    replace(folder / "mine.yaml", "overlong: drop", "overlong: [drop")
    [problem] = problems(folder)
    assert line_of(folder / "mine.yaml", "overlong") <= problem.line <= line_of(folder / "mine.yaml", "split") + 1


@pytest.mark.parametrize(
    ("file", "old", "new", "field", "line", "first"),
    [
        ("mine.yaml", "seed: 1", "seed: 1\nseed: 2", "seed", 5, 4),
        ("mine.yaml", "  r: 8", "  r: 8\n  method: lora", "adapter.method", 15, 13),
        ("sources.yaml", "  held_out:", "  rows:", "sources.rows", 7, 2),
    ],
)
def test_a_key_given_twice_is_named_with_both_lines(folder, file, old, new, field, line, first):
    replace(folder / file, old, new)
    [problem] = problems(folder)
    assert (problem.file, problem.line, problem.field) == (str(folder / file), line, field)
    assert f"line {first}" in problem.found


def test_all_faults_are_found_at_once(folder):
    mine, sources = folder / "mine.yaml", folder / "sources.yaml"
    replace(mine, "seed: 1\n", "")
    replace(mine, "  r: 8", "  r: 0")
    replace(mine, "1.0e-4", ".nan")
    replace(mine, "  max_new_tokens: 8", "  max_new_tokens: 8\n  metrik: 3")
    replace(sources, "format: alpaca", "format: preference")
    replace(sources, "format: messages", "formt: messages")
    (folder / "zz.yaml").write_text("name: [")
    found = {(problem.file, problem.field): problem.line for problem in problems(folder)}
    assert found == {
        (str(mine), "seed"): 1,
        (str(mine), "adapter.r"): line_of(mine, "  r: 0"),
        (str(mine), "sft.learning_rate"): line_of(mine, ".nan"),
        (str(mine), "evaluation.metrik"): line_of(mine, "metrik"),
        (str(sources), "sources.rows"): line_of(sources, "rows:"),
        (str(sources), "sources.held_out.format"): line_of(sources, "held_out:"),
        (str(sources), "sources.held_out.formt"): line_of(sources, "formt"),
        (str(folder / "zz.yaml"), "YAML"): found[str(folder / "zz.yaml"), "YAML"],
    }


def test_a_file_by_its_path_shows_a_typo_and_an_undeclared_source_together(folder):
    replace(folder / "mine.yaml", "    - rows", "    - rowz")
    replace(folder / "mine.yaml", "  r: 8", "  r: 8\n  rank: 8")
    with pytest.raises(RecipeError) as raised:
        add_file(load_catalog([]), folder / "mine.yaml")
    assert {"adapter.rank", "data.sft[0]"} <= {problem.field for problem in raised.value.problems}


def test_a_file_by_its_path_gives_its_recipe(folder):
    catalog = load_catalog([folder])
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "x.yaml").write_text(RECIPE.replace("mine", "other"))
    assert add_file(catalog, folder / "elsewhere" / "x.yaml") == "other"
    assert catalog.recipe("other").name == "other"


def test_a_file_without_a_recipe_says_so(folder):
    with pytest.raises(RecipeError, match="no recipe in this file"):
        add_file(load_catalog([]), folder / "sources.yaml")


@pytest.mark.parametrize("location", ["nowhere", "memory://nowhere", "nosuchprotocol://x/y"])
def test_a_location_that_cannot_be_read_is_named(folder, location):
    replace(folder / "sources.yaml", "location: rows.jsonl", f"location: {location}")
    with pytest.raises(RecipeError) as raised:
        load_catalog([folder]).batches("rows")
    [problem] = raised.value.problems
    assert (problem.file, problem.line, problem.field) == (str(folder / "sources.yaml"), 4, "sources.rows.location")
    assert location in problem.found


def test_hidden_files_are_no_batches(folder):
    for name in (".DS_Store", "_SUCCESS", "2026-02.jsonl"):
        (folder / "held_out" / name).write_text("")
    assert list(load_catalog([folder]).batches("held_out")) == ["2026-01", "2026-02"]


def test_two_files_that_would_be_one_batch_are_refused(folder):
    (folder / "held_out" / "2026-01.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"2026-01\.json and .*2026-01\.jsonl"):
        load_catalog([folder]).batches("held_out")


@pytest.mark.parametrize(
    ("retrain", "field", "words"),
    [
        ("{}", "retrain", "min_new_rows or schedule"),
        ("{min_new_rows: 0}", "retrain.min_new_rows", "greater than or equal to 1"),
        ("{min_new_rows: 2000000000}", "retrain.min_new_rows", "less than or equal to"),
        ("{schedule: hourly}", "retrain.schedule", "hourly"),
        ("{schedule: '61 * * * *'}", "retrain.schedule", "61"),
        ("{schedule: '0 0 30 2 *'}", "retrain.schedule", "0 0 30 2"),
        ("{every: day}", "retrain.every", "unknown field"),
    ],
)
def test_a_faulty_retrain_is_named(folder, retrain, field, words):
    (folder / "mine.yaml").write_text(RECIPE + f"retrain: {retrain}\n")
    with pytest.raises(RecipeError) as raised:
        load_catalog([folder]).recipe("mine")
    assert [problem.field for problem in raised.value.problems if problem.field == field]
    assert words in str(raised.value)


# The base model


def test_the_embedded_base_is_pinned(folder):
    identity, path = base_identity("embedded", folder / "mine.yaml")
    assert path is None
    assert len(identity["sha256"]) == 64


def test_a_hub_id_carries_its_revision(folder):
    identity, _ = base_identity("org/some-model.v2@0123abc", folder / "mine.yaml")
    assert identity == {"kind": "hub", "id": "org/some-model.v2", "revision": "0123abc"}


def test_a_folder_is_identified_by_its_content_not_its_path(folder):
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_bytes(b"weights")
    recipe = folder / "mine.yaml"
    assert base_identity("one", recipe)[0] == base_identity("two", recipe)[0]
    assert base_identity("one", recipe)[1] == folder / "one"
    before = base_identity("one", recipe)[0]
    (folder / "one" / "model.safetensors").write_bytes(b"weightS")
    assert base_identity("one", recipe)[0] != before


def test_a_gguf_file_is_identified_by_its_content(folder):
    (folder / "a.gguf").write_bytes(b"GGUF")
    (folder / "b.gguf").write_bytes(b"GGUF")
    assert base_identity("a.gguf", folder / "mine.yaml")[0] == base_identity("b.gguf", folder / "mine.yaml")[0]


@pytest.mark.parametrize(
    "spec",
    [
        "nowhere",
        "org/model",
        "./nowhere",
        "org/model@",
        "@main",
        "org/model@a b",
        "../nowhere@v2",
        "nowhere.gguf",
        "weights.bin",
        "unsafe",
        "https://example.org/model",
        "org/..@main",
        "org/model@../other",
        "org/model@main",
        "org/model@v1.0",
    ],
)
def test_a_base_model_that_is_none_is_named_with_its_line(folder, spec):
    (folder / "weights.bin").write_bytes(b"x")
    (folder / "unsafe").mkdir()
    (folder / "unsafe" / "pytorch_model.bin").write_bytes(b"x")
    file = folder / "mine.yaml"
    replace(file, "base_model: embedded", f'base_model: "{spec}"')
    with pytest.raises(RecipeError) as raised:
        base_identity(spec, file)
    [problem] = raised.value.problems
    assert (problem.file, problem.field, problem.line) == (str(file), "base_model", line_of(file, "base_model"))
    assert spec in problem.found
    assert "embedded" in problem.allowed
