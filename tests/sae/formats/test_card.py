"""What an SAE says of itself before anything is run."""

from __future__ import annotations

import pytest

from thoughtlens.core import MismatchError, NotThereError
from thoughtlens.sae import TopKConfig, card, create, save


def test_an_sae_of_thoughts_is_shown_by_its_run(tmp_path):
    run = tmp_path / "my run"
    (run / "acts").mkdir(parents=True)
    for name in ("pooled", "thought_1"):
        sae = create(TopKConfig(d_sae=8, k=2), 4, seed=0)
        sae.hook_names, sae.provenance = ["layers.1:out"], {"thought_convention": "0 begins"}
        save(sae, run / "sae" / name)
    for source in (run / "sae", run / "sae" / "pooled"):
        with pytest.raises(MismatchError, match=r"continuous thoughts.*: thoughtlens view '.*my run'$"):
            card(source)


def test_a_run_with_several_saes_names_their_places(tmp_path):
    for name in ("a", "b"):
        save(create(TopKConfig(d_sae=8, k=2), 4, seed=0), tmp_path / "sae" / name)
    with pytest.raises(NotThereError, match=r"this run's SAEs: \S+/sae/a, \S+/sae/b"):
        card(tmp_path)
