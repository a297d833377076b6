"""Settings in files."""

import re

import pytest

from troupe.config import TrainConfig, UsageError, from_toml, read_settings, settings_in, to_toml


def test_settings_of_a_file_are_by_dotted_name_under_their_present_names(tmp_path):
    file = tmp_path / "few.toml"
    first = 'seed = 3\nactor.place = "thread"\n'
    text = f'{first}[env]\nid = "Größe-v0"\nkwargs.size = {{a = 1}}\n[env.files]\nx = "y"\n'
    file.write_text(text, encoding="utf-8")
    expected = {"seed": 3, "actor.placement": "thread", "env.id": "Größe-v0", "env.kwargs.size": {"a": 1}}
    assert read_settings(file) == expected
    assert settings_in(file.read_text(encoding="utf-8")) == expected | {"env.files.x": "y"}
    assert from_toml('actor.place = "thread"').actor.placement == "thread"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed = -1", "seed = -1: expected a whole number of at least 0"),
        (b"sed = 1", "no setting 'sed'; did you mean seed?"),
        (b"seed = ", "not a TOML file: "),
        (b"seed = 1 # \xff", "not a TOML file: "),
        (b"[learner]\nepochs = 0", "learner.epochs = 0: "),
        (None, "no such file or directory"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, content, message):
    file = tmp_path / "few.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=f"^{re.escape(f'{file}: {message}')}"):
        read_settings(file)


def test_a_whole_configuration_comes_back_and_what_it_lacks_is_as_it_was_before_that_setting():
    whole = to_toml(TrainConfig())
    assert from_toml(whole) == TrainConfig()
    bare = from_toml("")
    assert (bare.network.normalize, bare.loss.normalize_reward) == (False, False)
    assert from_toml("network.normalize = true\nloss.normalize_reward = true") == TrainConfig()
    with pytest.raises(UsageError, match=r"^not a TOML file: "):
        from_toml("x =")
