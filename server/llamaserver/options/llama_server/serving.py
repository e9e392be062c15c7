"""What only llama-server has: slots and caches, projectors, endpoints, its page and its tools."""

from .argument import Argument, always, ignored, refused

_CHECKPOINTS = (
    "no checkpoints of contexts are made. A prompt is evaluated again where the memory of a model cannot go back"
)
_IDLE = "conversations that leave the KV cache go to --cache-ram and --kv-store"
_PAGE = "the chat page has no settings of the server"
_TOOLS = "this server runs no tools. Clients run them"
_ROUTER = "one process serves one model. Start one for each model, behind a router"
_VIDEO = "videos are not supported"
_IMAGES = "the model's own numbers of tokens for images are used. --max-image-pixels limits images"

SERVING: tuple[Argument, ...] = (
    ignored(
        "--kv-unified-per-slot",
        values=1,
        env="LLAMA_ARG_KV_UNIFIED_PER_SLOT",
        text="with --kv-unified, each slot can use all of --ctx-size",
    ),
    ignored(
        *("-ctxcp", "--ctx-checkpoints", "--swa-checkpoints"),
        values=1,
        env="LLAMA_ARG_CTX_CHECKPOINTS",
        text=_CHECKPOINTS,
    ),
    ignored("-cms", "--checkpoint-min-step", values=1, env="LLAMA_ARG_CHECKPOINT_MIN_SPACING_NT", text=_CHECKPOINTS),
    ignored("--cache-idle-slots", env="LLAMA_ARG_CACHE_IDLE_SLOTS", text=_IDLE),
    ignored("--no-cache-idle-slots", env="LLAMA_ARG_CACHE_IDLE_SLOTS", negative=True, text=_IDLE),
    ignored("-sp", "--special", text="the text of special tokens is not part of answers"),
    refused(
        "-mmu",
        "--mmproj-url",
        values=1,
        env="LLAMA_ARG_MMPROJ_URL",
        text="the projector is not downloaded. Download it and give its path with --mmproj",
    ),
    ignored(
        "-mmdev",
        "--mmproj-device",
        values=1,
        env="MTMD_BACKEND_DEVICE",
        text="the projector runs on the first GPU. --n-gpu-layers 0 keeps it on the CPU",
    ),
    always("--mmproj-auto", env="LLAMA_ARG_MMPROJ_AUTO", text="a projector is used if --mmproj names one"),
    ignored(
        *("--no-mmproj", "--no-mmproj-auto"),
        env="LLAMA_ARG_MMPROJ_AUTO",
        negative=True,
        text="a projector is used if --mmproj names one, and only then",
    ),
    always("--mmproj-offload", env="LLAMA_ARG_MMPROJ_OFFLOAD", text="the projector runs on a GPU if there is one"),
    ignored(
        "--no-mmproj-offload",
        env="LLAMA_ARG_MMPROJ_OFFLOAD",
        negative=True,
        text="the projector runs on a GPU if there is one. --n-gpu-layers 0 keeps it on the CPU",
    ),
    refused("--api-prefix", values=1, env="LLAMA_ARG_API_PREFIX", text="let a proxy remove the prefix of paths"),
    always("--ui", "--webui", env="LLAMA_ARG_UI", text="the chat page is always served"),
    ignored("--no-ui", "--no-webui", env="LLAMA_ARG_UI", negative=True, text="the chat page is always served"),
    refused("--lora-init-without-apply", text="give --lora-scaled FILE:0, and set the scale with POST /lora-adapters"),
    ignored("--image-min-tokens", values=1, env="LLAMA_ARG_IMAGE_MIN_TOKENS", text=_IMAGES),
    ignored("--image-max-tokens", values=1, env="LLAMA_ARG_IMAGE_MAX_TOKENS", text=_IMAGES),
    ignored("--mtmd-batch-max-tokens", values=1, env="LLAMA_ARG_MTMD_BATCH_MAX_TOKENS", text=_IMAGES),
    ignored("--video-fps", values=1, env="LLAMA_ARG_VIDEO_FPS", text=_VIDEO),
    ignored("--video-timestamp-interval", values=1, env="LLAMA_ARG_VIDEO_TIMESTAMP_INTERVAL", text=_VIDEO),
    ignored("--video-ffmpeg-dir", values=1, env="LLAMA_ARG_VIDEO_FFMPEG_DIR", text=_VIDEO),
    ignored("--ui-config", "--webui-config", values=1, env="LLAMA_ARG_UI_CONFIG", text=_PAGE),
    ignored("--ui-config-file", "--webui-config-file", values=1, env="LLAMA_ARG_UI_CONFIG_FILE", text=_PAGE),
    ignored("--ui-mcp-proxy", "--webui-mcp-proxy", env="LLAMA_ARG_UI_MCP_PROXY", text=_TOOLS),
    always("--no-ui-mcp-proxy", "--no-webui-mcp-proxy", env="LLAMA_ARG_UI_MCP_PROXY", negative=True, text=_TOOLS),
    refused("--tools", values=1, env="LLAMA_ARG_TOOLS", text=_TOOLS),
    refused("--tools-runtime", values=1, env="LLAMA_ARG_TOOLS_RUNTIME", text=_TOOLS),
    refused("--mcp-servers-config", values=1, env="LLAMA_ARG_MCP_SERVERS_CONFIG", text=_TOOLS),
    refused("--mcp-servers-json", values=1, env="LLAMA_ARG_MCP_SERVERS_JSON", text=_TOOLS),
    refused("-ag", "--agent", env="LLAMA_ARG_AGENT", text=_TOOLS),
    always("-no-ag", "--no-agent", env="LLAMA_ARG_AGENT", negative=True, text=_TOOLS),
    ignored(
        "--cache-reuse",
        values=1,
        env="LLAMA_ARG_CACHE_REUSE",
        text="only what prompts have in common at their beginning is reused",
    ),
    ignored("--props", env="LLAMA_ARG_ENDPOINT_PROPS", text="POST /props is not served. In llama-server it is empty"),
    refused("--media-path", values=1, text="images of the server's disk are not served. Send images in the request"),
    refused("--models-preset", values=1, env="LLAMA_ARG_MODELS_PRESET", text=_ROUTER),
    refused("--models-max", values=1, env="LLAMA_ARG_MODELS_MAX", text=_ROUTER),
    refused("--models-autoload", env="LLAMA_ARG_MODELS_AUTOLOAD", text=_ROUTER),
    always("--no-models-autoload", env="LLAMA_ARG_MODELS_AUTOLOAD", negative=True, text=_ROUTER),
    always("--jinja", env="LLAMA_ARG_JINJA", text="chat templates are always rendered by Jinja"),
    ignored("--no-jinja", env="LLAMA_ARG_JINJA", negative=True, text="chat templates are always rendered by Jinja"),
    ignored(
        "-sps",
        "--slot-prompt-similarity",
        values=1,
        text="a request gets the slot that saves most work. There is no least similarity",
    ),
    ignored("--sleep-idle-seconds", values=1, text="the model stays in memory"),
    ignored("--log-prompts-dir", values=1, text="prompts are not logged"),
)
