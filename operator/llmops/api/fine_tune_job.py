"""FineTuneJob: a model adapted to its owner's data, from checked rows to an artifact that can be served."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from llmops.api.fields import ObjectName, SecretRef, sources
from llmops.api.fine_tune_run import (
    BudgetSpec,
    CheckpointSpec,
    EarlyStoppingSpec,
    JobStorageSpec,
    TrainingAcceleratorSpec,
)
from llmops.api.fine_tune_status import FineTuneJobStatus
from llmops.api.meta import KubeObject, SpecModel
from llmops.api.quantity import IntOrString
from llmops.api.rules import Keys, Matches, Rule, Rules, Transition, quoted

BASE_SCHEMES = ("hf", "s3", "gs", "az", "https", "http", "pvc", "oci")
# A scheme is listed when there is code that acts on it.
DATASET_SCHEMES = ("hf", "s3", "gs", "https", "http", "pvc", "configMap")
FRACTION = "^0([.][0-9]{1,4})?$"
NUMBER = "^-?[0-9]{1,15}([.][0-9]{1,12})?(e-?[0-9]{1,3})?$|^[A-Za-z][A-Za-z0-9_.-]{0,62}$"
_NAME = re.compile("[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_WORD = re.compile("[a-z][a-z0-9_]{0,62}")

# Where files go, what is reported and how a run resumes is the operator's; code and credentials from a CR are not run.
RESERVED = (
    "output_dir",
    "overwrite_output_dir",
    "logging_dir",
    "report_to",
    "run_name",
    "resume_from_checkpoint",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "load_best_model_at_end",
    "eval_strategy",
    "eval_steps",
    "eval_on_start",
    "push_to_hub",
    "hub_token",
    "hub_model_id",
    "trust_remote_code",
    "model_init_kwargs",
    "deepspeed",
    "fsdp",
    "local_rank",
    "ddp_backend",
)
_well_spelled = Keys(
    cel=f"key.matches('^({_WORD.pattern})$')",
    holds=lambda key: _WORD.fullmatch(key) is not None,
    message="{keys}: write TRL's and transformers' own names, as in learning_rate",
)
_not_reserved = Keys(
    cel=f"!(key in {list(RESERVED)})",
    holds=lambda key: key not in RESERVED,
    message="{keys} is the operator's: checkpoints have spec.checkpoint, data has spec.dataset, the "
    "artifact stays on the job's volume, and code that comes with a model is not run",
    cause="FieldValueForbidden",
)
Hyperparameters = Annotated[
    dict[str, Annotated[int | str, IntOrString(NUMBER, minimum=-(2**31))]],
    Field(max_length=32),
    Rules((_well_spelled, _not_reserved)),
]


class BaseModelSpec(SpecModel):
    """The model that is adapted: by its source, or as an LLMDeployment of this namespace serves it."""

    source: Annotated[str, Field(max_length=1024), sources(BASE_SCHEMES)] | None = Field(
        default=None, description="Where the files come from, as in an LLMDeployment. Example: hf://org/model."
    )
    revision: Annotated[
        str,
        Field(max_length=255),
        Matches("[A-Za-z0-9][A-Za-z0-9._/-]*", "'{self}' is not a branch, tag or commit: write it like main or v1.0"),
    ] | None = Field(
        default=None, description="Branch, tag or commit of an hf:// source. Default: main. Example: v1.0."
    )  # fmt: skip
    secret_ref: SecretRef | None = Field(default=None, description="Credentials for the source. Default: none.")
    deployment: ObjectName | None = Field(
        default=None, description="An LLMDeployment whose weights, already downloaded, are used. Example: support."
    )
    rules = (
        Rule(
            cel="has(self.source) != has(self.deployment)",
            holds=lambda b: (b.source is None) != (b.deployment is None),
            message="say which model: give source, or deployment to use the weights of an LLMDeployment, and not both",
            cause="FieldValueRequired",
        ),
        Rule(
            path=".revision",
            cel="!has(self.revision) || (has(self.source) && self.source.startsWith('hf://'))",
            holds=lambda b: b.revision is None or (b.source or "").startswith("hf://"),
            message="only hf:// sources have revisions: leave revision out",
            cause="FieldValueForbidden",
        ),
        Rule(
            path=".secretRef",
            cel="!has(self.secretRef) || (has(self.source) && !self.source.matches('^(pvc|oci)://'))",
            holds=lambda b: b.secret_ref is None or (b.source or "pvc://").partition("://")[0] not in ("pvc", "oci"),
            message="nothing would read the Secret, because Kubernetes itself mounts the files: leave secretRef out",
            cause="FieldValueForbidden",
        ),
    )


class PrepareSpec(SpecModel):
    """What is done with the rows before they are split and learned from, in this order; provenance.json records it."""

    drop_empty: bool = Field(
        default=True,
        description="Leave out rows with an empty answer or text; otherwise the model learns to say nothing. "
        "Default: true.",
    )
    mask_personal_data: Annotated[list[Literal["Email", "Phone", "IBAN", "Card", "Secret"]], Field(max_length=5)] = (
        Field(
            default=[],
            description="Kinds that are written as <EMAIL>, <PHONE>, <IBAN> (mod-97 holds), <CARD> (Luhn holds) and "
            "<SECRET> (keys, tokens, passwords). Default: none. Example: [Email, Phone].",
        )
    )
    phone_region: (
        Annotated[str, Field(max_length=2), Matches("[A-Z]{2}", "'{self}' is not a country: write it like DE")] | None
    ) = Field(
        default=None,
        description="Country (ISO 3166) whose numbers are known without +NN, too. Default: international numbers only. "
        "Example: DE.",
    )
    languages: Annotated[
        list[
            Annotated[
                str,
                Field(max_length=3),
                Matches("[a-z]{2,3}", "'{self}' is not a language: write its ISO 639 code, as in en"),
            ]
        ],
        Field(max_length=32),
    ] = Field(
        default=[],
        description="ISO 639 codes. A row that is, more likely than not, in another language is left out. "
        "Default: every language. Example: [en, de].",
    )
    min_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="Shorter rows, in tokens of the base model, are left out. Default: none."
    )
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None,
        description="Longer rows, in tokens, are left out; otherwise they are cut at hyperparameters.max_length. "
        "Default: none.",
    )
    deduplicate: bool = Field(default=True, description="Keep the first of equal rows. Default: true.")
    rules = (
        Rule(
            path=".maxTokens",
            cel="!has(self.minTokens) || !has(self.maxTokens) || self.minTokens <= self.maxTokens",
            holds=lambda p: p.min_tokens is None or p.max_tokens is None or p.min_tokens <= p.max_tokens,
            message="no row has at least {self.minTokens} and at most {self.maxTokens} tokens: raise maxTokens",
        ),
        Rule(
            path=".phoneRegion",
            cel="!has(self.phoneRegion) || (has(self.maskPersonalData) && 'Phone' in self.maskPersonalData)",
            holds=lambda p: p.phone_region is None or "Phone" in p.mask_personal_data,
            message="phoneRegion says how numbers are read that nobody looks for: add Phone to maskPersonalData, or "
            "leave it out",
            cause="FieldValueForbidden",
        ),
    )  # fmt: skip


class DatasetSpec(SpecModel):
    """The examples that are learned from. They are checked on a CPU before an accelerator is taken."""

    source: Annotated[str, Field(max_length=1024), sources(DATASET_SCHEMES)] = Field(
        description="JSONL, JSON, CSV or Parquet, plain or gzip, in one file: hf://, s3://, gs://, https://, "
        "pvc://CLAIM/PATH or configMap://NAME/KEY. Example: s3://bucket/tickets.jsonl."
    )
    file: Annotated[
        str,
        Field(max_length=512),
        Matches("[A-Za-z0-9_][A-Za-z0-9._/-]*", "'{self}' is no file of a repository: write it like data/train.jsonl"),
    ] | None = Field(
        default=None,
        description="The file of an hf:// source. Default: the only one with rows, or the only one for training. "
        "Example: data/train.jsonl.",
    )  # fmt: skip
    secret_ref: SecretRef | None = Field(default=None, description="Credentials for the source. Default: none.")
    format: Literal["Auto", "Messages", "PromptCompletion", "Text", "Preference"] = Field(
        default="Auto", description="What a row holds. Default: Auto, told from the first rows and reported."
    )
    eval_fraction: Annotated[
        str,
        Field(max_length=8),
        Matches(FRACTION.strip("^$"), "'{self}' is not a part of the rows: write a decimal in quotes, as in '0.05'"),
    ] = Field(
        default="0.05",
        description="Part of the rows held out to judge the result, chosen by content so that a row stays on its side; "
        "at least 50 rows (but no more than a fifth) and at most 2000. '0' holds none out. Default: '0.05'.",
    )  # fmt: skip
    prepare: PrepareSpec = Field(default=PrepareSpec(), description="What is done with the rows before training.")
    rules = (
        Rule(
            path=".file",
            cel="!has(self.file) || self.source.startsWith('hf://')",
            holds=lambda d: d.file is None or d.source.startswith("hf://"),
            message="only hf:// sources hold several files: name the file in source, and leave file out",
            cause="FieldValueForbidden",
        ),
    )


class EvaluationSpec(SpecModel):
    """How the result is judged at the end, beside the base model."""

    dataset: Annotated[str, Field(max_length=1024), sources(DATASET_SCHEMES)] | None = Field(
        default=None,
        description="A test file of the training data's format, read with the Secret of spec.dataset. "
        "Default: the rows held out. Example: s3://bucket/tickets-test.jsonl.",
    )
    max_rows: Annotated[int, Field(ge=0, le=2000)] = Field(
        default=100,
        description="Rows for which both models write an answer, to be compared by exact match, token F1, BLEU, chrF "
        "and ROUGE; the loss is taken over all of them. 0: none. Default: 100.",
    )
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=128, description="Longest of these answers, in tokens. Default: 128."
    )


class LoraSpec(SpecModel):
    """Shape of the adapter."""

    r: Annotated[int, Field(ge=1, le=512)] = Field(default=16, description="Rank of the adapter. Default: 16.")
    alpha: Annotated[int, Field(ge=1, le=4096)] = Field(default=32, description="Scale of the adapter. Default: 32.")
    dropout: Annotated[
        str, Field(max_length=8), Matches(FRACTION.strip("^$"), "'{self}' is not a dropout: write it like '0.05'")
    ] = Field(default="0.05", description="Share of activations dropped, a decimal in quotes. Default: '0.05'.")
    target_modules: Annotated[
        str,
        Field(max_length=512),
        Matches("[A-Za-z0-9_.-]+(,[A-Za-z0-9_.-]+)*", "'{self}': write all-linear, or names with commas between them"),
    ] = Field(
        default="all-linear",
        description="Layers that get an adapter: all-linear, or names with commas. Default: all-linear. "
        "Example: q_proj,v_proj.",
    )


class FineTuneJobSpec(SpecModel):
    """What is learned, from what and how. Immutable like a Job's, but for suspend."""

    base_model: BaseModelSpec = Field(description="The model that is adapted.")
    dataset: DatasetSpec = Field(description="The examples that are learned from.")
    method: Literal["LoRA", "QLoRA", "Full", "ContinuedPretraining", "DPO"] = Field(
        default="LoRA",
        description="LoRA and QLoRA (4-bit, needs a GPU) train an adapter, Full every weight; ContinuedPretraining "
        "learns from plain text and DPO from preferences, both as an adapter. Default: LoRA.",
    )
    hyperparameters: Hyperparameters = Field(
        default={},
        description="TRL's and transformers' arguments (of SFTConfig, or DPOConfig) by their own names, decimals in "
        "quotes. "
        'Example: {num_train_epochs: 3, learning_rate: "2e-4", max_length: 2048, seed: 42}.',
    )
    lora: LoraSpec | None = Field(default=None, description="Shape of the adapter. Default: rank 16 on all-linear.")
    accelerator: TrainingAcceleratorSpec = Field(
        default=TrainingAcceleratorSpec(), description="What one training pod computes on."
    )
    nodes: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="Pods that train together, each with accelerator.count accelerators. Default: 1."
    )
    storage: JobStorageSpec = Field(default=JobStorageSpec(), description="The job's own volume.")
    checkpoint: CheckpointSpec = Field(default=CheckpointSpec(), description="How much an interruption may cost.")
    early_stopping: EarlyStoppingSpec | None = Field(
        default=None, description="When to stop because nothing gets better. Default: never."
    )
    evaluation: EvaluationSpec = Field(
        default=EvaluationSpec(), description="How the result is judged at the end, beside the base model."
    )
    retries: Annotated[int, Field(ge=0, le=100)] = Field(
        default=3,
        description="Attempts after a failure; evictions do not count, and two failures at one checkpoint end the job. "
        "Default: 3.",
    )
    deadline_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = Field(
        default=None,
        description="How long training may take, in seconds; suspended, the clock starts anew. Default: no limit. "
        "Example: 86400.",
    )
    budget: BudgetSpec | None = Field(
        default=None, description="What the job may cost, over all of its attempts. Default: no limit."
    )
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = Field(
        default=None,
        description="How long Jobs and pods, and with them their logs, stay after the end, in seconds; the volume with "
        "the artifact stays as long as the FineTuneJob. Default: as long as it, too. Example: 86400.",
    )
    suspend: bool = Field(
        default=False,
        description="Stop after a checkpoint, free the accelerator, and go on when false. Default: false.",
    )
    rules = (
        Rule(
            path=".lora",
            cel="!has(self.lora) || self.method != 'Full'",
            holds=lambda s: s.lora is None or s.method != "Full",
            message="method Full trains every weight and no adapter: leave lora out, or choose LoRA",
            cause="FieldValueForbidden",
        ),
        Rule(
            path=".method",
            cel="self.method != 'QLoRA' || self.accelerator.profile != 'cpu'",
            holds=lambda s: s.method != "QLoRA" or s.accelerator.profile != "cpu",
            message="QLoRA's 4-bit weights need a GPU: choose another accelerator.profile, or LoRA",
        ),
        Rule(
            path=".dataset.format",
            cel="self.method != 'ContinuedPretraining' || self.dataset.format in ['Auto', 'Text']",
            holds=lambda s: s.method != "ContinuedPretraining" or s.dataset.format in ("Auto", "Text"),
            message="method ContinuedPretraining learns from plain text: set dataset.format to Text, or choose LoRA "
            "for {self.dataset.format}",
        ),
        Rule(
            path=".dataset.format",
            cel="self.method == 'DPO' ? self.dataset.format in ['Auto', 'Preference'] "
            ": self.dataset.format != 'Preference'",
            holds=lambda s: (
                s.dataset.format in ("Auto", "Preference") if s.method == "DPO" else s.dataset.format != "Preference"
            ),
            message="method DPO and format Preference belong together: {self.method} does not learn from "
            "{self.dataset.format}",
        ),
        Rule(
            path=".earlyStopping",
            cel=f"!has(self.earlyStopping) || self.dataset.evalFraction.matches({quoted('[1-9]')})",
            holds=lambda s: s.early_stopping is None or re.search("[1-9]", s.dataset.eval_fraction) is not None,
            message="early stopping needs rows to judge by: raise dataset.evalFraction above 0, or leave it out",
        ),
    )  # fmt: skip


def _immutable(field: str, name: str) -> Transition:
    return Transition(
        path=f".{field}",
        cel=f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
        holds=lambda new, old: getattr(new, name) == getattr(old, name),
        message="a job that was created stays as it is, because its checkpoints and result belong to this spec: "
        "create another FineTuneJob (only suspend may change)",
    )


FineTuneJobSpec.transitions = tuple(
    _immutable(str(field.alias), name) for name, field in FineTuneJobSpec.model_fields.items() if name != "suspend"
)


class FineTuneJob(KubeObject):
    """A training run: checks its data, survives interruption, and leaves an artifact that can be served."""

    api_version: Literal["llmops.dev/v1alpha1"] = Field(description="Version of the API.")
    kind: Literal["FineTuneJob"] = Field(description="Kind of the object.")
    spec: FineTuneJobSpec = Field(description="What is learned, from what and how. Written by users only.")
    status: FineTuneJobStatus = Field(
        default=FineTuneJobStatus(), description="How far it is. Written by the operator only."
    )
    rules = (
        Rule(
            path=".metadata.name",
            cel="self.metadata.name.matches('^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$')",
            holds=lambda o: not o.metadata.name or _NAME.fullmatch(o.metadata.name) is not None,
            message="'{self.metadata.name}' cannot name the pods of a job: use at most 63 lower case letters, digits "
            "and '-', beginning with a letter",
        ),
    )
