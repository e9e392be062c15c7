"""The options for the model, its download, adapters and chat template."""

from pathlib import Path

from ...option_readers import integer, number
from ..option import Option
from ..values import adapters, hosts, metadata, scaled_adapters, words

MODEL: tuple[Option, ...] = (
    Option("model", ("-m", "--model"), "Path of the model file (GGUF)", str, value="FNAME"),
    Option("model_url", ("-mu", "--model-url"), "URL of the model file to download", str, value="URL"),
    Option(
        "hf_repo",
        ("-hf", "-hfr", "--hf-repo"),
        "Hugging Face repository of the model to download, REPO or REPO:QUANT",
        str,
        value="REPO",
    ),
    Option("hf_file", ("-hff", "--hf-file"), "File in the Hugging Face repository", str, value="FILE"),
    Option(
        "hf_token",
        ("-hft", "--hf-token"),
        "Hugging Face access token",
        str,
        value="TOKEN",
        env=("HF_TOKEN", "LLAMA_ARG_HF_TOKEN"),
        safer="the variable HF_TOKEN",
    ),
    Option("hf_revision", ("--hf-revision",), "Branch, tag or commit of the Hugging Face repository", str, value="REV"),
    Option("model_sha256", ("--model-sha256",), "SHA-256 that the downloaded model file must have", str, value="HEX"),
    Option("models_dir", ("--models-dir",), "Folder for downloaded models", Path, value="DIR"),
    Option(
        "models_owner",
        ("--models-owner",),
        "Owner of the folders of --models-use, as NAMESPACE/NAME",
        str,
        value="NAME",
    ),
    Option(
        "models_use",
        ("--models-use",),
        "Folders of --models-dir that the owner uses, comma-separated. Its other folders are removed",
        words,
        many=True,
        value="KEY",
    ),
    Option(
        "models_prune_after",
        ("--models-prune-after",),
        "Remove unused model folders after this many seconds",
        number(0.1),
    ),
    Option(
        "alias",
        ("-a", "--alias"),
        "Names of the model, comma-separated. Answers have the first one",
        str,
        value="NAME",
        default="the model's path",
    ),
    Option("tags", ("--tags",), "Tags of the model in /v1/models, comma-separated", words, value="TAG"),
    Option(
        "lora",
        ("--lora",),
        "LoRA adapter files, comma-separated. Can be repeated",
        adapters,
        many=True,
        value="FNAME",
    ),
    Option(
        "lora",
        ("--lora-scaled",),
        "LoRA adapter files with scales, FILE:SCALE, comma-separated. Can be repeated",
        scaled_adapters,
        many=True,
        env=("LLAMA_ARG_LORA_SCALED",),
        value="FNAME:SCALE",
    ),
    Option(
        "override_kv",
        ("--override-kv",),
        "Metadata to use instead of that in the model file, KEY=TYPE:VALUE, comma-separated. TYPE is int, float, bool "
        "or str. Can be repeated",
        metadata,
        many=True,
        value="KEY=TYPE:VALUE",
    ),
    Option("mmproj", ("-mm", "--mmproj"), "Multimodal projector file", str, value="FNAME"),
    Option(
        "max_image_pixels",
        ("--max-image-pixels",),
        "Most pixels of one image. All images of a request can have 4 times as many",
        integer(1, 2**28),
    ),
    Option(
        "image_hosts",
        ("--image-hosts",),
        "Hosts that images may be fetched from by http and https, comma-separated, such as example.com or "
        "example.com:8080. Can be repeated. Addresses that are not public must be named too, such as 10.0.0.0/8",
        hosts,
        many=True,
        value="HOST",
        default="none",
    ),
    Option(
        "chat_template",
        ("--chat-template",),
        "Jinja chat template, or the name of a built-in one",
        str,
        value="JINJA_TEMPLATE",
        default="the model's",
    ),
    Option("chat_template_file", ("--chat-template-file",), "File with a Jinja chat template", str, value="FNAME"),
    Option("spm_infill", ("--spm-infill",), "Put the suffix before the prefix in prompts of /infill"),
    Option(
        "system_prompt_file",
        ("-spf", "--system-prompt-file"),
        "File with a system prompt, which comes before the prompt of every request",
        str,
        value="FNAME",
    ),
)
