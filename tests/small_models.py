"""Small models with random weights and small tokenizers, saved as the hub's are, so that the real loading code runs."""

import torch
import transformers as hf
from transformers import (
    BartConfig,
    BertTokenizer,
    CLIPImageProcessor,
    CLIPTokenizer,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessor,
    OwlViTProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    RobertaTokenizer,
    SwinConfig,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

_SENTENCE = "the a left right red blue big small box dog cat man woman of to in on with second from next sign girl"
WORDS = _SENTENCE.split()


def byte_pairs(start, words, end=""):
    """Vocabulary and merges of a byte-level BPE that knows every byte and, as one token each, `words`."""
    letters = list(bytes_to_unicode().values())
    tokens, merges = [*start, *letters, *([letter + end for letter in letters] if end else [])], []
    for word in words:
        parts = [*word[:-1], word[-1] + end]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            parts = ["".join(pair), *parts[2:]]
            if pair not in merges:
                merges.append(pair)
            if parts[0] not in tokens:
                tokens.append(parts[0])
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}, merges


def save_noisy(folder, processor, model, noise=0.2):
    """Both in one folder; noise, because as they are initialised models answer every text alike."""
    processor.save_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    model.save_pretrained(folder)


def write_grounding_dino(folder, family):
    # The delimiters' ids are wired into the model: [CLS], [SEP], full stop and question mark of BERT's vocabulary.
    vocabulary = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    vocabulary |= {2000 + i: word for i, word in enumerate(WORDS)}
    rows = [vocabulary.get(i, f"[unused{i}]") for i in range(2000 + len(WORDS))]
    (folder / "vocab.txt").write_text("\n".join(rows))
    tokenizer = BertTokenizer.from_pretrained(folder)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 320})
    configuration, model = {
        "grounding-dino": (GroundingDinoConfig, GroundingDinoForObjectDetection),
        "mm-grounding-dino": (MMGroundingDinoConfig, MMGroundingDinoForObjectDetection),
    }[family]
    swin = SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_indices=[2, 3, 4])
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 12, "max_text_len": 16}
    sizes |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 32)
    sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    text = {"model_type": "bert", "vocab_size": len(rows), "hidden_size": 16, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    made = model(configuration(backbone_config=swin, text_config=text, **sizes))
    save_noisy(folder, GroundingDinoProcessor(images, tokenizer), made)


def write_owl(folder, family):
    vocabulary, merges = byte_pairs(["!"], WORDS, "</w>")
    for special in ("<|startoftext|>", "<|endoftext|>"):  # the model finds a text's end by its highest token
        vocabulary[special] = len(vocabulary)
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token="!")
    config, model, looks, processor = {
        "owlv2": (Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor),
        "owlvit": (OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessor, OwlViTProcessor),
    }[family]
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = tower | {"vocab_size": len(vocabulary), "max_position_embeddings": 16}
    torch.manual_seed(0)
    made = model(
        config(text_config=text, vision_config=tower | {"image_size": 64, "patch_size": 16}, projection_dim=16)
    )
    for head in (made.class_head, made.box_head):  # initialised for much wider ones: every answer would saturate
        for parameter in head.parameters():
            parameter.data.mul_(0.2)
    images = looks(size={"height": 64, "width": 64})
    save_noisy(folder, processor(images, tokenizer), made, noise=0.1)


def write_florence(folder, family):
    vocabulary, merges = byte_pairs(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], ["Ġ" + word for word in WORDS])
    tokenizer = RobertaTokenizer(
        vocab=vocabulary, merges=merges, bos_token="<s>", eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    tokenizer.add_tokens([f"<loc_{i}>" for i in range(1000)])
    vision = {"embed_dim": [8, 8, 8, 16], "num_heads": [1, 1, 1, 2], "num_groups": [1, 1, 1, 2], "depths": [1, 1, 1, 1]}
    vision |= {"window_size": 4, "projection_dim": 16, "model_type": "florence_vision"}
    text = BartConfig(
        vocab_size=len(tokenizer), d_model=16, max_position_embeddings=256,
        **dict.fromkeys(("encoder_layers", "decoder_layers"), 1),
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 16), bos_token_id=0, pad_token_id=1, eos_token_id=2,
        decoder_start_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    image = tokenizer.convert_tokens_to_ids("<image>")
    model = Florence2ForConditionalGeneration(
        Florence2Config(text_config=text, vision_config=vision, image_token_id=image)
    )
    # 64 pixels are 2 x 2 features, and their mean beside them.
    images = CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False, image_seq_length=5)
    processor = Florence2Processor(
        images, tokenizer, post_processor_config={"phrase_grounding": {"banned_grounding_tokens": ["it"]}}
    )
    save_noisy(folder, processor, model)


CHAT = """{% for m in messages %}<|im_start|>{{ m.role }}
{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}\
{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def write_qwen(folder, family):
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    special += ["<|image_pad|>", "<|video_pad|>"]
    vocabulary, merges = byte_pairs([], ["Ġ" + word for word in WORDS])
    tokenizer = Qwen2Tokenizer(vocab=vocabulary | {"<|endoftext|>": len(vocabulary)}, merges=merges)
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    ids = dict(zip(special, tokenizer.convert_tokens_to_ids(special), strict=True))
    text = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "eos_token_id": ids["<|im_end|>"]}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    tags = {"image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"]}
    tags |= {"vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"]}
    small = {"size": {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}}
    torch.manual_seed(0)
    if family == "qwen2_5_vl":
        text.pop("head_dim")
        vision |= {"window_size": 56, "fullatt_block_indexes": [1]}
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tags))
        looks, video, processor = Qwen2VLImageProcessor(**small), Qwen2VLVideoProcessor(), Qwen2_5_VLProcessor
    else:
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **tags))
        looks = Qwen2VLImageProcessor(patch_size=16, **small)
        video, processor = Qwen3VLVideoProcessor(), Qwen3VLProcessor
    save_noisy(folder, processor(looks, tokenizer, video, chat_template=CHAT), model)


FAMILIES = {
    "grounding-dino": write_grounding_dino, "mm-grounding-dino": write_grounding_dino, "owlv2": write_owl,
    "owlvit": write_owl, "florence-2": write_florence, "qwen2_5_vl": write_qwen, "qwen3_vl": write_qwen,
}  # fmt: skip


def write_family(folder, family):
    """Write a small model of a family, its processor and its tokenizer."""
    FAMILIES[family](folder, family)


SAM_DECODER = {"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SAM_DECODER |= {"iou_head_hidden_dim": 16}


def sam(folder):
    vision = {"hidden_size": 16, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 64, "patch_size": 8, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 32}
    prompt = {"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4}
    config = hf.SamConfig(
        vision_config=vision | {"num_pos_feats": 8}, prompt_encoder_config=prompt, mask_decoder_config=SAM_DECODER
    )
    hf.SamModel(config).save_pretrained(folder)
    hf.SamImageProcessor(
        size={"longest_edge": 64},
        pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 32},
        mask_pad_size={"height": 32, "width": 32},
    ).save_pretrained(folder)


def sam2(folder):
    hiera = {"model_type": "sam2_hiera_det_model", "hidden_size": 8, "embed_dim_per_stage": [8, 16, 32, 64]}
    hiera |= {"num_attention_heads_per_stage": [1, 1, 2, 2], "blocks_per_stage": [1, 1, 1, 1], "image_size": [64, 64]}
    hiera |= {"window_size_per_stage": [4, 4, 4, 4], "global_attention_blocks": []}
    hiera |= {"window_positional_embedding_background_size": [4, 4]}
    vision = {"backbone_config": hiera, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 16}
    prompt = {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
    config = hf.Sam2Config(
        vision_config=vision | {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
        prompt_encoder_config=prompt,
        mask_decoder_config=SAM_DECODER,
    )
    hf.Sam2Model(config).save_pretrained(folder)
    size = {"height": 64, "width": 64}
    hf.Sam2ImageProcessor(size=size, mask_size={"height": 16, "width": 16}).save_pretrained(folder)
