"""The spec of a LlamaServer as frozen values. The CRD describes the fields."""

from typing import Annotated, Any, Literal

import msgspec


class Model(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base class of all values."""


def given(value: Any) -> Any:
    """A value as plain JSON, without the fields that have their default.

    The API server adds the defaults of the CRD to objects, also those of fields that are newer than the object.
    """
    if isinstance(value, tuple):
        return [given(item) for item in value]
    if not isinstance(value, Model):
        return value
    parts = ((field, getattr(value, field.name)) for field in msgspec.structs.fields(value))
    return {field.encode_name: given(part) for field, part in parts if part != _default(field)}


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default


def _exactly_one(names: str, *values: object) -> None:
    if sum(value is not None for value in values) != 1:
        raise ValueError(f"set exactly one of {names}")


class HuggingFace(Model, frozen=True):
    """A file in a Hugging Face repository."""

    repo: str
    file: str
    revision: str = "main"


class Http(Model, frozen=True):
    """A file at a URL."""

    url: str


class ClaimFile(Model, frozen=True):
    """A file on an existing claim."""

    claim_name: str
    path: str


class ImageFile(Model, frozen=True):
    """A file in an OCI image."""

    reference: str
    path: str


class Source(Model, frozen=True):
    """The source of a file. Exactly one field is set."""

    hugging_face: HuggingFace | None = None
    http: Http | None = None
    persistent_volume_claim: ClaimFile | None = None
    image: ImageFile | None = None

    def __post_init__(self) -> None:
        parts = (self.hugging_face, self.http, self.persistent_volume_claim, self.image)
        _exactly_one("huggingFace, http, persistentVolumeClaim and image", *parts)

    @property
    def place(self) -> str:
        """URL or path of the file at its source."""
        if self.hugging_face:
            return self.hugging_face.file
        if self.http:
            return self.http.url
        inside = self.persistent_volume_claim or self.image
        return inside.path if inside else ""


class SecretRef(Model, frozen=True):
    """A Secret of the namespace."""

    name: str


class ClaimTemplate(Model, frozen=True):
    """A claim that the operator makes."""

    size: str
    storage_class_name: str | None = None
    access_modes: tuple[str, ...] = ("ReadWriteOnce",)


Retention = Literal["Retain", "Delete"]


class ModelCache(Model, frozen=True):
    """The claim for downloads. One of claim_name and claim_template is set."""

    claim_name: str | None = None
    claim_template: ClaimTemplate | None = None
    retention_policy: Retention = "Retain"

    def __post_init__(self) -> None:
        _exactly_one("claimName and claimTemplate", self.claim_name, self.claim_template)


class ServedModel(Model, frozen=True):
    """spec.model."""

    source: Source
    sha256: str = ""
    credentials_secret_ref: SecretRef | None = None
    alias: str = ""
    cache: ModelCache | None = None


class LoraAdapter(Model, frozen=True):
    """One of spec.loraAdapters."""

    name: str
    source: Source
    sha256: str = ""
    scale: float = 1.0


class Projector(Model, frozen=True):
    """spec.projector."""

    source: Source
    sha256: str = ""


class ConfigMapKey(Model, frozen=True):
    """A key of a ConfigMap."""

    name: str
    key: str


class Text(Model, frozen=True):
    """A text, inline or in a ConfigMap."""

    inline: str | None = None
    config_map_key_ref: ConfigMapKey | None = None

    def __post_init__(self) -> None:
        _exactly_one("inline and configMapKeyRef", self.inline, self.config_map_key_ref)


class Reasoning(Model, frozen=True):
    """spec.chat.reasoning. Empty values mean the default of the server."""

    thinking: Literal["", "Enabled", "Disabled"] = ""
    effort: str = ""
    budget_tokens: int | None = None
    budget_message: str = ""
    format: Literal["", "Separate", "InContent", "Both"] = ""
    history: Literal["", "All", "LastAnswer"] = ""


class Chat(Model, frozen=True):
    """spec.chat. Empty values mean the default of the server."""

    reasoning: Reasoning = Reasoning()
    template_arguments: dict[str, Any] = {}
    parsing: Literal["", "Enabled", "Disabled"] = ""
    prefill: Literal["", "Enabled", "Disabled"] = ""


class Sampling(Model, frozen=True):
    """spec.sampling. None means the default of the server."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


class ContextSize(Model, frozen=True):
    """spec.context, in tokens."""

    tokens_per_slot: Annotated[int, msgspec.Meta(ge=1)] = 4096
    slots: Annotated[int, msgspec.Meta(ge=1)] = 4


class KvType(Model, frozen=True):
    """Data types of the KV cache."""

    key: str = "F16"
    value: str = "F16"


class RopeScaling(Model, frozen=True):
    """spec.engine.ropeScaling."""

    type: Literal["", "None", "Linear", "YaRN"] = ""
    frequency_base: float = 0.0
    frequency_scale: float = 0.0
    original_context: int = 0


class SelfExtend(Model, frozen=True):
    """spec.engine.selfExtend."""

    factor: int
    width: int


class Embeddings(Model, frozen=True):
    """spec.engine.embeddings."""

    pooling: Literal["", "None", "Mean", "CLS", "Last", "Rank"] = ""


class EngineOptions(Model, frozen=True):
    """spec.engine. Zero and empty values mean the default of the server."""

    gpu_layers: int | Literal["All"] = "All"
    split_mode: Literal["", "None", "Layer", "Row"] = ""
    main_gpu: int | None = None
    tensor_split: tuple[float, ...] = ()
    flash_attention: Literal["Auto", "On", "Off"] = "Auto"
    batch_tokens: int = 0
    micro_batch_tokens: int = 0
    threads: int = 0
    kv_type: KvType = KvType()
    rope_scaling: RopeScaling = RopeScaling()
    self_extend: SelfExtend | None = None
    embeddings: Embeddings | None = None
    extra_args: tuple[str, ...] = ()


class ResourceClaim(Model, frozen=True):
    """A DRA claim of the pods."""

    name: str
    resource_claim_name: str | None = None
    resource_claim_template_name: str | None = None

    def __post_init__(self) -> None:
        names = "resourceClaimName and resourceClaimTemplateName"
        _exactly_one(names, self.resource_claim_name, self.resource_claim_template_name)


class Accelerator(Model, frozen=True):
    """spec.accelerator."""

    vendor: Literal["NVIDIA", "AMD", "Intel"]
    count: Annotated[int, msgspec.Meta(ge=1)] = 1
    resource_name: str = ""
    resource_claims: tuple[ResourceClaim, ...] = ()
    runtime_class_name: str | None = None
    on_fallback: Literal["Fail", "Warn"] = "Fail"

    @property
    def resource(self) -> str:
        """The extended resource to request. Empty with DRA claims."""
        if self.resource_claims:
            return ""
        by_vendor = {"NVIDIA": "nvidia.com/gpu", "AMD": "amd.com/gpu", "Intel": "gpu.intel.com/i915"}
        return self.resource_name or by_vendor[self.vendor]


class EmptyDir(Model, frozen=True):
    """Scratch space of a pod."""

    size_limit: str | None = None


class KvVolume(Model, frozen=True):
    """spec.kvCache.volume. One of claim_name, claim_template and empty_dir is set."""

    claim_name: str | None = None
    claim_template: ClaimTemplate | None = None
    empty_dir: EmptyDir | None = None
    retention_policy: Retention = "Retain"

    def __post_init__(self) -> None:
        _exactly_one("claimName, claimTemplate and emptyDir", self.claim_name, self.claim_template, self.empty_dir)


class KvCache(Model, frozen=True):
    """spec.kvCache: a volume, memory of the pod, or both."""

    volume: KvVolume | None = None
    persistence: Literal["None", "OnShutdown", "Continuous"] = "None"
    manual_slots: Literal["Enabled", "Disabled"] = "Disabled"
    scope: Literal["Replica", "Shared"] = "Replica"
    host_memory: str = ""
    min_tokens: int = 0
    ttl_seconds: int = 0
    max_size: str = ""
    integrity_secret_ref: SecretRef | None = None

    def __post_init__(self) -> None:
        if self.volume is None and self.stores:
            raise ValueError("persistence needs a volume")
        if self.volume is None and self.manual_slots == "Enabled":
            raise ValueError("manualSlots needs a volume")
        if self.volume is None and not self.host_memory:
            raise ValueError("set volume, hostMemory or both")

    @property
    def stores(self) -> bool:
        """Whether the server saves conversations on the volume."""
        return self.persistence != "None"


class Rollout(Model, frozen=True):
    """spec.rollout, in seconds."""

    strategy: Literal["Auto", "Surge", "Replace"] = "Auto"
    drain_timeout_seconds: int = 300
    progress_deadline_seconds: int = 1800
    upgrade_policy: Literal["Pinned", "Immediate"] = "Pinned"


class Serving(Model, frozen=True):
    """spec.serving."""

    port: int = 8080
    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    max_queue: int | None = None
    request_timeout_seconds: int = 0
    slots_endpoint: Literal["Enabled", "Disabled"] = "Disabled"
    request_system_prompt: Literal["Enabled", "Disabled"] = "Disabled"


class Tls(Model, frozen=True):
    """spec.security.tls."""

    secret_name: str


class NetworkPolicy(Model, frozen=True):
    """spec.security.networkPolicy. Peers have the form of the Kubernetes API."""

    mode: Literal["Managed", "None"] = "Managed"
    egress: Literal["Any", "Download"] = "Any"
    peers: tuple[dict[str, Any], ...] = msgspec.field(default=(), name="from")


class Security(Model, frozen=True):
    """spec.security."""

    api_keys_secret_ref: SecretRef | None = None
    tls: Tls | None = None
    cache_isolation: Literal["PerKey", "Shared"] = "PerKey"
    network_policy: NetworkPolicy = NetworkPolicy()


class Observability(Model, frozen=True):
    """spec.observability."""

    service_monitor: Literal["Auto", "Always", "Never"] = "Auto"
    labels: dict[str, str] = {}


class Resources(Model, frozen=True):
    """spec.resources."""

    requests: dict[str, int | str] = {}
    limits: dict[str, int | str] = {}


class PodSecurity(Model, frozen=True):
    """spec.podTemplate.securityContext."""

    fs_group: int | None = None
    supplemental_groups: tuple[int, ...] = ()


class PodTemplate(Model, frozen=True):
    """spec.podTemplate. Dicts have the form of the Kubernetes API."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    node_selector: dict[str, str] = {}
    tolerations: tuple[dict[str, Any], ...] = ()
    affinity: dict[str, Any] = {}
    topology_spread_constraints: tuple[dict[str, Any], ...] = ()
    priority_class_name: str | None = None
    scheduler_name: str | None = None
    env: tuple[dict[str, Any], ...] = ()
    volumes: tuple[dict[str, Any], ...] = ()
    volume_mounts: tuple[dict[str, Any], ...] = ()
    image_pull_secrets: tuple[dict[str, Any], ...] = ()
    security_context: PodSecurity = PodSecurity()


class Image(Model, frozen=True):
    """spec.image."""

    repository: str = ""
    tag: str = ""
    digest: str = ""
    pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""

    @property
    def reference(self) -> str:
        """The image reference. Empty for the default of the operator."""
        if not self.repository:
            return ""
        if self.digest:
            return f"{self.repository}@{self.digest}"
        return f"{self.repository}:{self.tag}" if self.tag else self.repository


class Spec(Model, frozen=True):
    """spec."""

    model: ServedModel
    lora_adapters: tuple[LoraAdapter, ...] = ()
    projector: Projector | None = None
    chat_template: Text | None = None
    system_prompt: Text | None = None
    chat: Chat = Chat()
    sampling: Sampling = Sampling()
    context: ContextSize = ContextSize()
    engine: EngineOptions = EngineOptions()
    accelerator: Accelerator | None = None
    replicas: Annotated[int, msgspec.Meta(ge=0)] = 1
    kv_cache: KvCache | None = None
    rollout: Rollout = Rollout()
    serving: Serving = Serving()
    security: Security = Security()
    observability: Observability = Observability()
    resources: Resources = Resources()
    pod_template: PodTemplate = PodTemplate()
    image: Image = Image()

    @property
    def texts(self) -> dict[str, Text]:
        """Texts that the pods mount, by file name."""
        both = {"chat-template": self.chat_template, "system-prompt": self.system_prompt}
        return {name: text for name, text in both.items() if text}

    @property
    def inline_texts(self) -> dict[str, str]:
        """The inline texts, by file name."""
        return {name: text.inline for name, text in self.texts.items() if text.inline is not None}
