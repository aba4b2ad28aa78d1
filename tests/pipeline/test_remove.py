"""remove as a user types it: volumes, recipes, runs."""

from __future__ import annotations

import samkit as package
from samkit.store.lease import lease
from samkit.store.local import LocalPlace

EMBED = ("embed", "--size", "64")


def test_removing_a_volume_that_is_not_there_removes_nothing(samkit, ingested):
    ended = samkit("remove", "a", "nobody", *ingested.flag)
    assert ended.code == 2
    assert "no volume nobody" in ended.said
    assert len(package.open_workspace(ingested.workspace).volumes) == 2


def test_removing_a_volume_names_the_runs_that_become_stale(samkit, job):
    (run,) = package.open_workspace(job.workspace).runs.values()
    (volume, *_) = run.settings.drawn_volumes
    ended = samkit("remove", volume, *job.flag)
    assert ended.code == 0
    assert f"1 run trained or scored on them: {run.id}" in ended.said


def test_removing_a_volume_that_no_run_used_names_none(samkit, ingested):
    assert "stale" not in samkit("remove", "a", *ingested.flag).said


def test_a_removed_recipe_takes_its_rows_with_it_and_no_other(samkit, ingested, rows_of):
    for size in ("64", "128"):
        assert samkit("embed", "--size", size, *ingested.flag).code == 0
    small, large = package.open_workspace(ingested.workspace).recipes().values()
    ended = samkit("remove", "--recipe", large.recipe.id, *ingested.flag)
    assert ended.code == 0
    assert f"{large.folder.name} removed: " in ended.said
    assert [path.name for path in (ingested.workspace / "embeddings").iterdir()] == [small.folder.name]
    assert samkit("verify", *ingested.flag).code == 0


def test_a_removed_recipe_is_computed_again_by_the_same_command(samkit, ingested, rows_of):
    assert samkit(*EMBED, *ingested.flag).code == 0
    before = rows_of(ingested.workspace)
    assert samkit("remove", "--recipe", "nano", *ingested.flag).code == 0
    assert "8 to compute" in samkit(*EMBED, *ingested.flag).said
    assert all((rows == before[name]).all() for name, rows in rows_of(ingested.workspace).items())


def test_a_name_of_several_recipes_removes_none(samkit, ingested, files_of):
    for size in ("64", "128"):
        assert samkit("embed", "--size", size, *ingested.flag).code == 0
    before = files_of(ingested.workspace)
    ended = samkit("remove", "--recipe", "nano", *ingested.flag)
    assert ended.code == 2
    assert "names 2 recipes: nano--" in ended.said
    assert files_of(ingested.workspace) == before


def test_what_a_kill_left_of_a_recipe_is_removed_by_the_same_command(samkit, ingested):
    assert samkit(*EMBED, *ingested.flag).code == 0
    (folder,) = (ingested.workspace / "embeddings").iterdir()
    (folder / "recipe.json").unlink()
    assert samkit("remove", "--recipe", folder.name.split("--")[1], *ingested.flag).code == 0
    assert not folder.exists()


def test_a_recipe_that_is_not_there_is_refused_with_those_that_are(samkit, job):
    ended = samkit("remove", "--recipe", "sam_vit_b", *job.flag)
    assert ended.code == 2
    assert "--recipe sam_vit_b is no recipe; there are: nano--" in ended.said


def test_removing_a_recipe_names_the_runs_that_were_trained_on_it(samkit, job):
    (run,) = package.open_workspace(job.workspace).runs.values()
    ended = samkit("remove", "--recipe", run.settings.recipe_id, *job.flag)
    assert f"1 run trained on it: {run.id}" in ended.said


def test_the_scores_of_a_run_outlive_its_recipe(samkit, job):
    before = samkit("report", "--format", "csv", *job.flag).out
    assert samkit("remove", "--recipe", "nano", *job.flag).code == 0
    assert samkit("report", "--format", "csv", *job.flag).out == before


def test_a_removed_run_is_in_no_table(samkit, job):
    (run,) = package.open_workspace(job.workspace).runs.values()
    ended = samkit("remove", "--run", run.id, *job.flag)
    assert ended.code == 0
    assert f"{run.id} removed" in ended.said
    assert not package.open_workspace(job.workspace).runs


def test_what_is_not_there_keeps_what_is_from_going(samkit, job, files_of):
    before = files_of(job.workspace)
    ended = samkit("remove", "--recipe", "nano", "--run", "nobody", *job.flag)
    assert ended.code != 0
    assert "no run 'nobody'" in ended.said
    assert files_of(job.workspace) == before


def test_remove_asks_what_is_to_go(samkit, job):
    ended = samkit("remove", *job.flag)
    assert ended.code == 2
    assert "--recipe" in ended.said


def test_no_volume_goes_while_another_keeps_house(samkit, job):
    volumes = list(package.open_workspace(job.workspace).volumes)
    with lease(LocalPlace(job.workspace), "samkit gc"):
        assert samkit("remove", volumes[0], "--recipe", "nano", *job.flag).code == 1
    assert list(package.open_workspace(job.workspace).volumes) == volumes


def test_a_recipe_stays_while_another_keeps_house(samkit, job, files_of):
    before = files_of(job.workspace)
    with lease(LocalPlace(job.workspace), "samkit gc"):
        ended = samkit("remove", "--recipe", "nano", *job.flag)
    assert ended.code == 1
    assert {name: data for name, data in files_of(job.workspace).items() if name != "housekeeping.json"} == before
