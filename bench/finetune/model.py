"""The model whose training is timed: of 24 million parameters, as they are drawn, with the small model's tokenizer.

Weights that have learned nothing cost what others cost. The small model itself is so narrow that its matrices keep no
two cores busy, and what is measured is how an operation begins. Runs in the trainer's environment:
`python -m bench.finetune.model SMALL FOLDER`.
"""

from __future__ import annotations

import sys
from pathlib import Path

SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}


def main(small: Path, folder: Path) -> None:
    import torch  # noqa: PLC0415 - the bench itself has none of them
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM  # noqa: PLC0415

    torch.manual_seed(0)
    LlamaForCausalLM(AutoConfig.from_pretrained(small, **SHAPE)).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(small).save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
