"""CoLaR (Tan et al. 2025, arXiv:2505.16552): a thought stands for several words of a chain, and there are as
many as a problem needs.

The prompt ends with `###` (thought 0). A head on the state after the final norm predicts the next input as a
Gaussian; here it is fed with its mean, times the deviation of the embeddings of words, as in the published
class of transformers, whose head has nothing else. Each problem stops for itself: it has no thought p + 1
where, after thought p, `###` is the likeliest token; at `n_thoughts` all stop. `###` and the answer, in
words, greedily, come next. The number in the prompt, `(Thinking speed: 2)`, asks for how many words a
thought should stand; `prompt` sets another.

Read: github.com/xiaomi-research/colar, `src/models/model_base.py` (`latent_generate`) and
`src/modules/projector.py`; github.com/ModalityDance/LatentTTS, `src/models/colar.py` and
`src/generation_mixin.py`. The two differ where a problem does not stop: the first says `###` for it, as
here; the second says a word and goes on thinking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from thoughtlens.core import ConfigError, MismatchError
from thoughtlens.models.thought.sequence import HFThoughts, asked
from thoughtlens.models.thought.sites import Outside, ThoughtSpec
from thoughtlens.models.thought.thoughts import State, parse_number

END = "###"
PROMPT = "Question: {question} Let's think step by step:(Thinking speed: 2)###"


class LatentHead(nn.Module):
    """Mean of the next input, in deviations of the embeddings."""

    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(d, width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width))
        self.mean = nn.Linear(width, d)

    def forward(self, u: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """See the class."""
        return self.mean(self.fc(u))


class Colar(HFThoughts):
    """A causal language model fed with the means of its latent head."""

    start_ids = ()

    def __init__(
        self,
        lm: PreTrainedModel,
        head: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        end_id: int,
        deviation: float,
        n_thoughts: int = 64,
        prompt: str | None = None,
    ) -> None:
        super().__init__(lm, tokenizer)
        self.head = head.to(self.device, lm.dtype).eval().requires_grad_(False)
        self.prompt, self.end_ids, self.deviation = prompt or PROMPT, (end_id,), deviation
        self.spec = ThoughtSpec(
            n_thoughts=n_thoughts,
            n_layers=len(self.blocks),
            n_cue=len(self.end_ids),
            sites=self.sites,
            d=lm.config.hidden_size,
            feedback_layer=len(self.blocks),
            has_projection=True,
            varies=True,
        )
        if not self.prompt.endswith(END):
            raise ConfigError(
                f"prompt: CoLaR's thoughts follow {END}, and {self.prompt!r} does not end with it"
            )
        if self._tokenize("1")[-1:] != [end_id]:
            raise MismatchError(
                f"The tokenizer does not read the {END} at the end of CoLaR's prompt as token {end_id}: it "
                f"is another model's"
            )

    def reads(self, question: str) -> str:
        """See `ThoughtModel.reads`."""
        return asked(question, self.prompt)

    def encode(self, questions: Sequence[str], outside: Outside | None = None) -> State:
        """See `ThoughtModel.encode`."""
        state = super().encode(questions, outside)
        return replace(state, thinking=torch.ones_like(state.positions, dtype=torch.bool))

    def _tokenize(self, question: str) -> list[int]:
        text = self.reads(question) if question.strip() else ""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _fed(self, state: State, u: Float[Tensor, "batch 1 d"]) -> State:
        assert state.thinking is not None
        stops = self._unembed(u[:, 0]).argmax(-1) == self.end_ids[0]
        return replace(state, pending=self._feed_back(u), thinking=state.thinking & ~stops)

    def _feed_back(self, u: Float[Tensor, "batch 1 d"]) -> Float[Tensor, "batch 1 d"]:
        return self.head(u) * self.deviation

    def _value(self, text: str) -> float | None:
        return parse_number(text.rsplit("Answer:", 1)[-1])
