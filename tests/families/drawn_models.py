"""The models of the table: which ones, how to build them with random weights, and their inputs."""

from __future__ import annotations

from dataclasses import dataclass, field

import timm
import torch
import torchvision
import transformers
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers.models.whisper.modeling_whisper import WhisperEncoder

__all__ = [
    "TIMM",
    "TRANSFORMERS",
    "build",
    "example",
    "input_shape",
    "skeleton",
    "smallest",
    "torchvision_names",
]

# The smallest model, by parameters and then by name, of every file of timm's that registers one;
# where that one exists for timm's own tests only, the smallest real one follows. `smallest` draws
# them again.
TIMM: dict[str, tuple[str, ...]] = {
    "beit": ("beit_base_patch16_224",),
    "byoanet": ("halonet_h1",),
    "byobnet": ("test_byobnet", "mobileone_s1"),
    "cait": ("cait_xxs24_224",),
    "coat": ("coat_tiny",),
    "convit": ("convit_tiny",),
    "convmixer": ("convmixer_768_32",),
    "convnext": ("test_convnext", "convnext_zepto_rms"),
    "cpubone": ("cpubone_nano",),
    "crossvit": ("crossvit_tiny_240",),
    "csatv2": ("csatv2",),
    "cspnet": ("cs3darknet_focus_s",),
    "cspnext": ("cspnext_tiny",),
    "davit": ("davit_tiny",),
    "deepseek_vit": ("deepseek_vit_412m",),
    "deit": ("deit_tiny_patch16_224",),
    "densenet": ("densenet121",),
    "dla": ("dla46x_c",),
    "dpn": ("dpn48b",),
    "edgenext": ("edgenext_xx_small",),
    "efficientformer": ("efficientformer_l1",),
    "efficientformer_v2": ("efficientformerv2_s0",),
    "efficientnet": ("test_efficientnet", "mobilenetv2_035"),
    "efficientvim": ("efficientvim_m1",),
    "efficientvit_mit": ("efficientvit_b0",),
    "efficientvit_msra": ("efficientvit_m0",),
    "eva": ("vit_tiny_patch16_dinov3_qkvb",),
    "fasternet": ("fasternet_t0",),
    "fastvit": ("fastvit_t8",),
    "focalnet": ("focalnet_tiny_srf",),
    "gcvit": ("gcvit_xxtiny",),
    "gemma4_vit": ("gemma4_vit_167m",),
    "ghostnet": ("ghostnet_050",),
    "hardcorenas": ("hardcorenas_b",),
    "hgnet": ("hgnetv2_b0",),
    "hiera": ("hiera_tiny_224",),
    "hieradet_sam2": ("sam2_hiera_tiny",),
    "hrnet": ("hrnet_w18_small",),
    "iformer": ("iformer_t",),
    "inception_next": ("inception_next_atto",),
    "inception_resnet_v2": ("inception_resnet_v2",),
    "inception_v3": ("inception_v3",),
    "inception_v4": ("inception_v4",),
    "lcnetv2": ("lcnetv2_small",),
    "levit": ("levit_128s",),
    "lowformer": ("lowformer_b0",),
    "mambaout": ("test_mambaout", "mambaout_femto"),
    "maxxvit": ("test_coatnet", "maxvit_pico_rw_256"),
    "metaformer": ("poolformerv2_s12",),
    "mlp_mixer": ("gmlp_ti16_224",),
    "mobilenetv3": ("mobilenetv3_small_050",),
    "mobilenetv5": ("mobilenetv5_base",),
    "mobilevit": ("mobilevit_xxs",),
    "mvitv2": ("mvitv2_tiny",),
    "naflexvit": ("naflexvit_base_patch16_parfac_gap",),
    "nasnet": ("nasnetalarge",),
    "nest": ("nest_tiny",),
    "nextvit": ("nextvit_small",),
    "nfnet": ("test_nfnet", "nf_regnet_b0"),
    "pit": ("pit_ti_224",),
    "pnasnet": ("pnasnet5large",),
    "pvt_v2": ("pvt_v2_b0",),
    "qwen3_vit": ("qwen3_vit_88m",),
    "rdnet": ("rdnet_tiny",),
    "regnet": ("regnetx_002",),
    "repghost": ("repghostnet_050",),
    "repvit": ("repvit_m1",),
    "res2net": ("res2next50",),
    "resnest": ("resnest14d",),
    "resnet": ("test_resnet", "resnet10t"),
    "resnetv2": ("resnetv2_18",),
    "rexnet": ("rexnet_100",),
    "selecsls": ("selecsls42",),
    "senet": ("legacy_seresnet18",),
    "sequencer": ("sequencer2d_s",),
    "shvit": ("shvit_s1",),
    "sknet": ("skresnet18",),
    "starnet": ("starnet_s050",),
    "swiftformer": ("swiftformer_xs",),
    "swin_transformer": ("swin_tiny_patch4_window7_224",),
    "swin_transformer_v2": ("swinv2_tiny_window16_256",),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224",),
    "tiny_vit": ("tiny_vit_5m_224",),
    "tnt": ("tnt_s_legacy_patch16_224",),
    "tresnet": ("tresnet_m",),
    "twins": ("twins_svt_small",),
    "vgg": ("vgg11",),
    "visformer": ("visformer_tiny",),
    "vision_transformer": ("test_vit", "vit_tiny_patch16_224"),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224",),
    "vision_transformer_relpos": ("test_vit_relpos", "vit_srelpos_small_patch16_224"),
    "vision_transformer_sam": ("samvit_base_patch16_224",),
    "vitamin": ("vitamin_small_224",),
    "volo": ("volo_d1_224",),
    "vovnet": ("ese_vovnet19b_slim_dw",),
    "xception": ("legacy_xception",),
    "xception_aligned": ("xception41p",),
    "xcit": ("xcit_nano_12_p8_224",),
}


@dataclass(frozen=True)
class Small:
    """A small model of transformers: its class, its configuration, and what it takes."""

    config: str
    model: str
    takes: str
    settings: dict[str, object] = field(default_factory=dict)


_LAYERS = {"num_hidden_layers": 2}
_WIDTH = {**_LAYERS, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
_IMAGE = {**_WIDTH, "image_size": 32, "patch_size": 8, "num_labels": 10}
_TEXT = {**_WIDTH, "vocab_size": 99, "max_position_embeddings": 64, "pad_token_id": 0}
_GROUPED = {**_TEXT, "num_key_value_heads": 2, "head_dim": 8}
_T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
_WHISPER = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_mel_bins": 16,
    "max_source_positions": 30,
    "vocab_size": 99,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}

TRANSFORMERS: dict[str, Small] = {
    "vit": Small("ViTConfig", "ViTForImageClassification", "pixels", _IMAGE),
    "deit": Small("DeiTConfig", "DeiTForImageClassification", "pixels", _IMAGE),
    "bert": Small("BertConfig", "BertForSequenceClassification", "tokens", _TEXT),
    "roberta": Small("RobertaConfig", "RobertaForSequenceClassification", "tokens", _TEXT),
    "distilbert": Small(
        "DistilBertConfig",
        "DistilBertForSequenceClassification",
        "tokens",
        {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    ),
    "gpt2": Small(
        "GPT2Config",
        "GPT2LMHeadModel",
        "tokens",
        {
            "vocab_size": 99,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
    ),
    "gpt_neox-parallel": Small(
        "GPTNeoXConfig", "GPTNeoXForCausalLM", "tokens", {**_TEXT, "use_parallel_residual": True}
    ),
    "gpt_neox-sequential": Small(
        "GPTNeoXConfig", "GPTNeoXForCausalLM", "tokens", {**_TEXT, "use_parallel_residual": False}
    ),
    "llama": Small("LlamaConfig", "LlamaForCausalLM", "tokens", _GROUPED),
    "mistral": Small("MistralConfig", "MistralForCausalLM", "tokens", _GROUPED),
    "qwen2": Small(
        "Qwen2Config", "Qwen2ForCausalLM", "tokens", {**_TEXT, "num_key_value_heads": 2}
    ),
    "qwen3": Small("Qwen3Config", "Qwen3ForCausalLM", "tokens", _GROUPED),
    "gemma": Small("GemmaConfig", "GemmaForCausalLM", "tokens", _GROUPED),
    "gemma2": Small("Gemma2Config", "Gemma2ForCausalLM", "tokens", _GROUPED),
    "gemma3": Small("Gemma3TextConfig", "Gemma3ForCausalLM", "tokens", _GROUPED),
    "t5-encoder": Small("T5Config", "T5EncoderModel", "tokens", _T5),
    "t5": Small("T5Config", "T5ForConditionalGeneration", "tokens of both", _T5),
    "opt": Small(
        "OPTConfig",
        "OPTForCausalLM",
        "tokens",
        {
            **_LAYERS,
            "vocab_size": 99,
            "hidden_size": 32,
            "ffn_dim": 64,
            "num_attention_heads": 4,
            "word_embed_proj_dim": 32,
            "max_position_embeddings": 64,
        },
    ),
    "whisper-encoder": Small("WhisperConfig", "WhisperEncoder", "spectrogram", _WHISPER),
    "whisper": Small("WhisperConfig", "WhisperModel", "spectrogram and tokens", _WHISPER),
}


def torchvision_names() -> list[str]:
    """Every classification model of torchvision."""
    return torchvision.models.list_models(module=torchvision.models)


def build(family: str, name: str, **settings: object) -> nn.Module:
    """Build a model of the table with random weights, in evaluation mode, on the default device."""
    if family == "torchvision":
        if name in ("googlenet", "inception_v3"):
            settings["init_weights"] = False
        return torchvision.models.get_model(name, weights=None, **settings).eval()
    if family == "timm":
        return timm.create_model(name, pretrained=False, **settings).eval()
    small = TRANSFORMERS[name]
    config = getattr(transformers, small.config)(**small.settings)
    made = WhisperEncoder if small.model == "WhisperEncoder" else getattr(transformers, small.model)
    return made(config).eval()


def skeleton(family: str, name: str) -> nn.Module:
    """Build a model of the table without memory for its weights and without initialising them."""
    if family == "timm":  # its constructors fill buffers by hand unless everything is on meta
        with torch.device("meta"):
            return build(family, name)

    def to_meta(module: nn.Module, name: str, value: nn.Parameter) -> nn.Parameter:
        return value if value.is_meta else nn.Parameter(value.to("meta"), value.requires_grad)

    # torchvision's RegNet computes its widths with tensors, which need data: parameters only.
    hook = register_module_parameter_registration_hook(to_meta)
    try:
        return build(family, name)
    finally:
        hook.remove()


def input_shape(family: str, name: str) -> tuple[int, ...]:
    """The shape of one image of the model's own size, without the batch dimension."""
    if family == "timm":
        return tuple(timm.get_pretrained_cfg(name, allow_unregistered=True).input_size)
    return (3, 299, 299) if name == "inception_v3" else (3, 224, 224)


def example(family: str, name: str, batch: int, generator: torch.Generator) -> dict[str, object]:
    """Inputs that the model takes: ``{"args": (...)}`` for images, else ``{"kwargs": {...}}``."""
    if family != "transformers":
        shape = (batch, *input_shape(family, name))
        return {"args": (torch.rand(shape, generator=generator),)}
    takes = TRANSFORMERS[name].takes
    tokens = torch.randint(3, 99, (batch, 16), generator=generator)
    kwargs = {
        "pixels": lambda: {"pixel_values": torch.rand(batch, 3, 32, 32, generator=generator)},
        "tokens": lambda: {"input_ids": tokens},
        "tokens of both": lambda: {"input_ids": tokens, "decoder_input_ids": tokens[:, :8]},
        "spectrogram": lambda: {"input_features": torch.rand(batch, 16, 60, generator=generator)},
        "spectrogram and tokens": lambda: {
            "input_features": torch.rand(batch, 16, 60, generator=generator),
            "decoder_input_ids": tokens[:, :8],
        },
    }[takes]()
    return {"kwargs": kwargs}


def smallest(module: str) -> tuple[str, ...]:
    """Draw a file's models for ``TIMM`` again, counting parameters."""
    counted = []
    for name in timm.list_models(module=module):
        model = skeleton("timm", name)
        counted.append((sum(p.numel() for p in model.parameters()), name))
    names = [name for _, name in sorted(counted)]
    real = [name for name in names if not name.startswith("test_")]
    return (names[0],) if names[0] == real[0] else (names[0], real[0])
