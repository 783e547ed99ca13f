"""Which classes of torchvision, timm and transformers add a shortcut to a branch, read from source.

A rule says which additions ``shortcut + branch`` one instance of a class executes on the trunk, in
order. What lies inside a class with a rule counts as branch or shortcut unless the rule walks into
it. Nothing here runs a model or looks at a graph: it is the yardstick for what does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

__all__ = ["RULES", "Rule", "kind_of"]


@dataclass(frozen=True)
class Rule:
    """What one instance of a class adds on the trunk.

    ``steps`` maps the instance to its steps in order of execution: ``"identity"`` (or another kind
    of shortcut) is an addition in its own ``forward``, ``"identity@child"`` one in the ``forward``
    of that child, and ``"@child"`` walks into a child that lies on the trunk itself.
    """

    steps: Callable[[nn.Module], Iterable[str]]
    why: str
    unsure: bool = False


def kind_of(shortcut: nn.Module | None) -> str:
    """The kind of shortcut a module makes: what its layers are, not what it is called."""
    layers = [m for m in shortcut.modules() if not list(m.children())] if shortcut else []
    names = [type(layer).__name__ for layer in layers if not isinstance(layer, nn.Sequential)]
    if any("Conv" in name or "Linear" in name for name in names):
        return "projection"
    if any("Pool" in name for name in names):
        return "pooling"
    return "identity" if all(name == "Identity" for name in names) else "scaling"


def adds(count: int, why: str, unsure: bool = False) -> Rule:
    """The class always adds its input, ``count`` times."""
    return Rule(lambda _: ["identity"] * count, why, unsure)


def flagged(attribute: str, why: str) -> Rule:
    """The class adds its input where its own attribute says so."""
    return Rule(lambda m: ["identity"] if getattr(m, attribute) else [], why)


def through(attribute: str, why: str, absent: str = "identity") -> Rule:
    """The class adds what its child makes of the input; ``absent`` says what no child means."""

    def steps(module: nn.Module) -> list[str]:
        shortcut = getattr(module, attribute)
        return [kind_of(shortcut)] if shortcut is not None or absent == "identity" else []

    return Rule(steps, why)


def hidden(why: str, unsure: bool = False) -> Rule:
    """Nothing inside the class is an addition of shortcut and branch on the trunk."""
    return Rule(lambda _: [], why, unsure)


def _gcvit_stage(stage: nn.Module) -> list[str]:
    blocks = list(stage.blocks)
    readers = [i for i, block in enumerate(blocks) if block.attn.use_global]
    last = max(readers, default=-1)
    end = [f"identity@blocks.{last}"] if readers else []
    return ["@downsample", *end, *(f"@blocks.{i}" for i in range(last + 1, len(blocks)))]


def _dla_tree(tree: nn.Module) -> list[str]:
    if tree.level_root:
        return []
    if tree.root is None:
        return ["@tree1"]
    made = nn.Sequential(tree.downsample, tree.project)
    return [f"{kind_of(made)}@tree1"]


def _mvitv2_block(block: nn.Module) -> list[str]:
    attention = "identity" if block.shortcut_pool_attn is None else "pooling"
    if block.shortcut_proj_attn is not None:
        attention = "projection"
    return [attention, "identity" if block.shortcut_proj_mlp is None else "projection"]


def _hiera_block(block: nn.Module) -> list[str]:
    if not block.do_expand:
        return ["identity", "identity"]
    return ["pooling" if block.proj is None else "projection", "identity"]


def _davit_block(block: nn.Module) -> list[str]:
    return ["@cpe1", "identity", "@cpe2", *(["identity"] if block.mlp is not None else [])]


PRE_NORM = "x + attention(norm(x)), then x + mlp(norm(x))"
RESIDUAL_UNIT = "shortcut + convolutions, the activation after the sum"
MERGED = "parallel linear branches merged before the activation; the skip is a BatchNorm, not x"

TORCHVISION = {
    "resnet.BasicBlock": through("downsample", RESIDUAL_UNIT),
    "resnet.Bottleneck": through("downsample", RESIDUAL_UNIT),
    "regnet.ResBottleneckBlock": through("proj", "proj(x) + f(x), or x + f(x) without proj"),
    "efficientnet.MBConv": flagged("use_res_connect", "x added at stride 1 and equal width"),
    "efficientnet.FusedMBConv": flagged("use_res_connect", "x added at stride 1 and equal width"),
    "mobilenetv2.InvertedResidual": flagged("use_res_connect", "x added at stride 1, equal width"),
    "mobilenetv3.InvertedResidual": flagged("use_res_connect", "x added at stride 1, equal width"),
    "mnasnet._InvertedResidual": flagged("apply_residual", "x added at stride 1 and equal width"),
    "shufflenetv2.InvertedResidual": hidden("halves are concatenated and shuffled, never added"),
    "densenet._DenseBlock": hidden("features are concatenated, never added"),
    "convnext.CNBlock": adds(1, "x + layer_scale * block(x)"),
    "vision_transformer.EncoderBlock": adds(2, PRE_NORM),
    "swin_transformer.SwinTransformerBlock": adds(2, PRE_NORM),
    "swin_transformer.SwinTransformerBlockV2": adds(2, "x + norm(attention(x)), x + norm(mlp(x))"),
    "maxvit.MBConv": through("proj", "proj(x) + layers(x); proj is pooling and 1x1, or nothing"),
    "maxvit.PartitionAttentionLayer": adds(2, "attention and mlp added inside the partition"),
}

TRANSFORMERS = {
    "vit.modeling_vit.ViTLayer": adds(2, PRE_NORM),
    "deit.modeling_deit.DeiTLayer": adds(2, PRE_NORM),
    "bert.modeling_bert.BertSelfOutput": adds(1, "LayerNorm(dense(attention) + input)"),
    "bert.modeling_bert.BertOutput": adds(1, "LayerNorm(dense(intermediate) + input)"),
    "roberta.modeling_roberta.RobertaSelfOutput": adds(1, "LayerNorm(dense(attention) + input)"),
    "roberta.modeling_roberta.RobertaOutput": adds(1, "LayerNorm(dense(intermediate) + input)"),
    "distilbert.modeling_distilbert.TransformerBlock": adds(2, "LayerNorm(branch + x), twice"),
    "gpt2.modeling_gpt2.GPT2Block": adds(2, PRE_NORM),
    "gpt_neox.modeling_gpt_neox.GPTNeoXLayer": Rule(
        lambda m: ["identity"] * (1 if m.use_parallel_residual else 2),
        "x + attention + mlp in one sum where use_parallel_residual, else two sums",
    ),
    "llama.modeling_llama.LlamaDecoderLayer": adds(2, PRE_NORM),
    "mistral.modeling_mistral.MistralDecoderLayer": adds(2, PRE_NORM),
    "qwen2.modeling_qwen2.Qwen2DecoderLayer": adds(2, PRE_NORM),
    "qwen3.modeling_qwen3.Qwen3DecoderLayer": adds(2, PRE_NORM),
    "gemma.modeling_gemma.GemmaDecoderLayer": adds(2, PRE_NORM),
    "gemma2.modeling_gemma2.Gemma2DecoderLayer": adds(2, "x + norm(branch(norm(x))), twice"),
    "gemma3.modeling_gemma3.Gemma3DecoderLayer": adds(2, "x + norm(branch(norm(x))), twice"),
    "t5.modeling_t5.T5LayerSelfAttention": adds(1, "x + attention(norm(x))"),
    "t5.modeling_t5.T5LayerFF": adds(1, "x + feed_forward(norm(x))"),
    "opt.modeling_opt.OPTDecoderLayer": adds(2, PRE_NORM),
    "whisper.modeling_whisper.WhisperEncoderLayer": adds(2, PRE_NORM),
}

_BYOB = "x + shortcut(x) unless create_shortcut gave None"
_CONVOLUTIONAL = {
    "_efficientnet_blocks.ConvBnAct": flagged("has_skip", "x added where has_skip"),
    "_efficientnet_blocks.DepthwiseSeparableConv": flagged("has_skip", "x added where has_skip"),
    "_efficientnet_blocks.InvertedResidual": flagged("has_skip", "x added where has_skip"),
    "_efficientnet_blocks.EdgeResidual": flagged("has_skip", "x added where has_skip"),
    "_efficientnet_blocks.UniversalInvertedResidual": flagged("has_skip", "x added where has_skip"),
    "_efficientnet_blocks.MobileAttention": Rule(
        lambda m: ["identity"] * ((m.conv_cpe_dw is not None) + bool(m.has_skip)),
        "x + conv_cpe_dw(x) where there is one, x + attention where has_skip",
    ),
    "byobnet.BasicBlock": through("shortcut", _BYOB, absent="no sum"),
    "byobnet.BottleneckBlock": through("shortcut", _BYOB, absent="no sum"),
    "byobnet.DarkBlock": through("shortcut", _BYOB, absent="no sum"),
    "byobnet.EdgeBlock": through("shortcut", _BYOB, absent="no sum"),
    "byobnet.SelfAttnBlock": through("shortcut", _BYOB, absent="no sum"),
    "byobnet.RepVggBlock": hidden(MERGED),
    "byobnet.MobileOneBlock": hidden(MERGED),
    "convmixer.Residual": adds(1, "x + depthwise(x); the pointwise convolution is a link"),
    "convnext.ConvNeXtBlock": through("shortcut", "shortcut(x) + gamma * mlp(norm(conv_dw(x)))"),
    "cspnet.CrossStage3": hidden("blocks run on one half of a split, the other goes round them"),
    "cspnext.CspNextLayer": hidden("blocks run beside short_conv; both are concatenated"),
    "densenet.DenseBlock": hidden("features are concatenated, never added"),
    "dla.DlaTree": Rule(
        _dla_tree,
        "only tree1 without level_root has nothing going round it to the aggregating root",
        unsure=True,
    ),
    "dpn.DualPathBlock": hidden("sum of a channel slice; the rest of the state goes round it"),
    "fasternet.MLPBlock": adds(1, "x + mlp(spatial_mixing(x))"),
    "ghostnet.GhostBottleneck": through("shortcut", "shortcut(x) added; an empty one is identity"),
    "hgnet.HighPerfGpuBlock": flagged("residual", "x added where residual"),
    "inception_next.MetaNeXtBlock": adds(1, "x + gamma * mlp(norm(token_mixer(x)))"),
    "inception_resnet_v2.Block35": adds(1, "x + scale * conv(cat(branches))"),
    "inception_resnet_v2.Block17": adds(1, "x + scale * conv(cat(branches))"),
    "inception_resnet_v2.Block8": adds(1, "x + scale * conv(cat(branches))"),
    "lcnetv2.RepDepthwiseSeparable": flagged("use_shortcut", "x added where use_shortcut"),
    "mambaout.GatedConvBlock": adds(1, "x + gated convolution of norm(x)"),
    "nasnet.NASNetALarge": hidden("cells read the two cells before them; sums are parts of a cat"),
    "nfnet.NormFreeBlock": through("downsample", "alpha * branch + x, or + downsample(act(x))"),
    "pnasnet.PNASNet5Large": hidden("cells read two cells before them; sums are parts of a cat"),
    "rdnet.DenseStage": hidden("features are concatenated, never added"),
    "regnet.Bottleneck": through("downsample", RESIDUAL_UNIT, absent="no sum"),
    "repghost.RepGhostBottleneck": through("shortcut", "shortcut(x) added; an empty one is x"),
    "res2net.Bottle2neck": through("downsample", "outer sum only; the hierarchy is in its branch"),
    "resnest.ResNestBottleneck": through("downsample", RESIDUAL_UNIT),
    "resnet.BasicBlock": through("downsample", RESIDUAL_UNIT),
    "resnet.Bottleneck": through("downsample", RESIDUAL_UNIT),
    "resnetv2.PreActBasic": through("downsample", "x, or downsample(norm(x)), + convolutions"),
    "rexnet.LinearBottleneck": hidden(
        "x is added to the first channels only, then concatenated with the rest: a zero-padded "
        "shortcut in effect, but the sum does not dominate the output",
        unsure=True,
    ),
    "selecsls.SelecSlsBlock": hidden("features are concatenated, never added"),
    "senet.SEResNetBlock": through("downsample", RESIDUAL_UNIT),
    "sknet.SelectiveKernelBasic": through("downsample", RESIDUAL_UNIT),
    "starnet.Block": adds(1, "x + convolutions of the product of two"),
    "tresnet.BasicBlock": through("downsample", RESIDUAL_UNIT),
    "tresnet.Bottleneck": through("downsample", RESIDUAL_UNIT),
    "vovnet.OsaBlock": flagged("residual", "x added where residual"),
    "xception.Block": through("skip", "skip(x), or x, + separable convolutions"),
    "xception_aligned.PreXceptionModule": Rule(
        lambda m: [] if m.no_skip else [kind_of(m.shortcut)],
        "shortcut(norm(x)) + separable convolutions of norm(x)",
    ),
}

_TRANSFORMER_LIKE = {
    "beit.Block": adds(2, PRE_NORM),
    "cait.LayerScaleBlock": adds(2, PRE_NORM),
    "cait.LayerScaleBlockClassAttn": hidden(
        "the patch tokens go round the class attention and are concatenated after it: a link"
    ),
    "convit.Block": adds(2, PRE_NORM),
    "cpubone.ResidualBlock": through("shortcut", "main(x) + x where a shortcut is set", "no sum"),
    "csatv2.Block": adds(1, "x + attention-weighted convolutions"),
    "csatv2.TransformerBlock": Rule(
        lambda m: ["projection" if m.downsample else "identity", "identity"],
        "attention beside x (1x1 of pooled x when it downsamples), then mlp",
    ),
    "davit.SpatialBlock": Rule(_davit_block, "position convolution, attention, again, mlp"),
    "davit.ChannelBlock": Rule(_davit_block, "position convolution, attention, again, mlp"),
    "davit.ConvPosEnc": adds(1, "x + depthwise(x): depends on the trunk, so it is a block"),
    "deepseek_vit.DeepseekVitBlock": adds(2, PRE_NORM),
    "edgenext.ConvBlock": adds(1, "x + gamma * mlp(norm(conv_dw(x)))"),
    "edgenext.SplitTransposeBlock": adds(1, "outer sum only; split sums and attention are inside"),
    "efficientformer.MetaBlock1d": adds(2, "x + scaled mixer, x + scaled mlp"),
    "efficientformer.MetaBlock2d": adds(2, "x + scaled mixer, x + scaled mlp"),
    "efficientformer_v2.EfficientFormerV2Block": Rule(
        lambda m: ["identity"] * (1 + (m.token_mixer is not None)),
        "x + mixer where there is one, x + mlp",
    ),
    "efficientformer_v2.Downsample": Rule(
        lambda m: ["projection"] if m.attn is not None else [],
        "attention(x) + strided convolution and norm of x: a projection shortcut",
        unsure=True,
    ),
    "efficientvit_mit.ResidualBlock": through("shortcut", "main(x) + shortcut(x)", "no sum"),
    "efficientvit_msra.ResidualDrop": adds(1, "x + m(x)"),
    "eva.EvaBlock": adds(2, PRE_NORM),
    "fastvit.MobileOneBlock": hidden(MERGED),
    "fastvit.ReparamLargeKernelConv": hidden(MERGED),
    "fastvit.RepMixer": Rule(
        lambda m: ["identity"] if m.reparam_conv is None else [],
        "x + scale * (mixer(x) - norm(x)): x itself is the shortcut",
    ),
    "fastvit.RepMixerBlock": Rule(lambda _: ["@token_mixer", "identity"], "mixer, then x + mlp"),
    "focalnet.FocalNetBlock": adds(2, "x + modulation, x + mlp"),
    "gcvit.GlobalContextVitBlock": adds(2, PRE_NORM),
    "gcvit.GlobalContextVitStage": Rule(
        _gcvit_stage,
        "the global query goes from the stage's input round its blocks to the last attention that "
        "reads it: a link (one could call it one long block); the mlp after that is a block",
        unsure=True,
    ),
    "gcvit.MbConvBlock": adds(1, "x + convolutions"),
    "gemma4_vit.Gemma4Block": adds(2, "x + norm(branch(norm(x))), twice"),
    "hiera.HieraBlock": Rule(
        _hiera_block, "max-pooled projection of norm(x), or x, + attention; then mlp", unsure=True
    ),
    "hieradet_sam2.MultiScaleBlock": Rule(
        lambda m: ["projection" if m.dim != m.dim_out else "identity", "identity"],
        "pooled projection of norm(x), or x, + attention; then mlp",
    ),
    "iformer.Residual": adds(1, "x + gamma * module(x)"),
    "levit.LevitBlock": adds(2, "x + attention(x), x + mlp(x)"),
    "levit.LevitDownsample": adds(1, "attention alone changes the shape; x + mlp(x) follows"),
    "lowformer.ResidualBlock": through("shortcut", "main(x) + x where a shortcut is set", "no sum"),
    "maxxvit.MbConvBlock": through("shortcut", "shortcut(x) + convolutions"),
    "maxxvit.PartitionAttentionCl": adds(2, PRE_NORM),
    "maxxvit.TransformerBlock2d": Rule(
        lambda m: [kind_of(m.shortcut), "identity"], "shortcut(x) + attention, x + mlp"
    ),
    "metaformer.MetaFormerBlock": Rule(
        lambda m: [kind_of(m.res_scale1), kind_of(m.res_scale2)],
        "res_scale(x) + branch, twice; res_scale is a learned factor per channel, or nothing",
    ),
    "mlp_mixer.SpatialGatingBlock": adds(1, "x + gated mlp"),
    "mobilenetv5.MobileNetV5": Rule(
        lambda m: [f"@blocks.{i}" for i in range(min(m.msfa_indices))],
        "the fusion adapter reads several stages, so later stages lie beside the trunk",
        unsure=True,
    ),
    "mobilevit.MobileVitBlock": hidden("its input goes round the transformer into a concatenation"),
    "mvitv2.MultiScaleBlock": Rule(_mvitv2_block, "x or its projection, pooled, + branch; twice"),
    "nest.TransformerLayer": adds(2, PRE_NORM),
    "nextvit.NextConvBlock": adds(2, "x + attention, x + mlp, after the patch embedding"),
    "nextvit.NextTransformerBlock": adds(
        2, "x + attention and x + mlp; the projected sum between is half of a concatenation"
    ),
    "pvt_v2.Block": adds(2, PRE_NORM),
    "repvit.RepViTBlock": Rule(lambda _: ["@token_mixer", "identity"], "mixer, then x + mlp"),
    "repvit.RepVggDw": adds(1, "conv(x) + conv1(x) + x: x itself is a summand, so a block"),
    "repvit.RepVitDownsample": Rule(lambda _: ["@pre_block", "identity"], "pre_block; x + ffn(x)"),
    "sequencer.Sequencer2dBlock": adds(2, "x + LSTM(norm(x)), x + mlp(norm(x))"),
    "shvit.Residual": adds(1, "x + m(x)"),
    "swiftformer.Block": Rule(
        lambda _: ["@local_representation", "identity", "identity"], "local part, attention, mlp"
    ),
    "swiftformer.ConvEncoder": adds(1, "x + scaled convolutions"),
    "swiftformer.LocalRepresentation": adds(1, "x + scaled convolutions"),
    "swin_transformer.SwinTransformerBlock": adds(2, PRE_NORM),
    "swin_transformer_v2.SwinTransformerV2Block": adds(2, "x + norm(branch(x)), twice"),
    "swin_transformer_v2_cr.SwinTransformerV2CrBlock": adds(2, "x + norm(branch(x)), twice"),
    "tiny_vit.MBConv": adds(1, "x + convolutions, then the activation"),
    "tiny_vit.TinyVitBlock": adds(2, "x + attention, local convolution as a link, x + mlp"),
    "twins.Block": adds(2, PRE_NORM),
    "twins.PosConv": Rule(
        lambda m: ["identity"] if m.stride == 1 else [],
        "x + depthwise(x): depends on the trunk, so it is a block",
    ),
    "visformer.Block": Rule(
        lambda m: ["identity"] * (1 + (m.attn is not None)),
        "x + attention where there is one, x + mlp",
    ),
    "vision_transformer.Block": adds(2, PRE_NORM),
    "vision_transformer_relpos.RelPosBlock": adds(2, PRE_NORM),
    "vision_transformer_sam.Block": adds(2, PRE_NORM),
    "vitamin.MbConvLNBlock": through("shortcut", "shortcut(x) + convolutions"),
    "volo.ClassBlock": hidden("the patch tokens go round it and are concatenated after it: a link"),
    "volo.Outlooker": adds(2, PRE_NORM),
    "volo.Transformer": adds(2, PRE_NORM),
    "xcit.ClassAttentionBlock": adds(2, "sums over all tokens, class and patches alike"),
    "xcit.XCABlock": adds(3, "x + attention, x + local mixing, x + mlp"),
}

RULES: dict[str, Rule] = {
    **{f"torchvision.models.{name}": rule for name, rule in TORCHVISION.items()},
    **{f"transformers.models.{name}": rule for name, rule in TRANSFORMERS.items()},
    **{f"timm.models.{name}": rule for name, rule in (_CONVOLUTIONAL | _TRANSFORMER_LIKE).items()},
}
