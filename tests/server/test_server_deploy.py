"""The files of deploy/ agree with one another, with the command, and with what the service tells."""

import ipaddress
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from prometheus_client.parser import text_string_to_metric_families
from typer.main import get_command

from lookalike.cli import app
from lookalike.server import Limits
from lookalike.server.watch import Watch
from lookalike.store.address import Address
from lookalike.values import Counts

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text()
CADDYFILE = (DEPLOY / "Caddyfile").read_text()
SERVING = (ROOT / "src" / "lookalike" / "cli" / "serving.py").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PAGES = [
    DEPLOY / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in ("captions", "operate", "scale", "scale-milvus", "scale-serving")
    ),
]
CLUSTER = DEPLOY / "kubernetes"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((CLUSTER / "kustomization.yaml").read_text())
MANIFESTS: dict[str, dict[str, Any]] = {
    document["kind"]: document
    for name in KUSTOMIZATION["resources"]
    for document in yaml.safe_load_all((CLUSTER / name).read_text())
}
POD: dict[str, Any] = MANIFESTS["Deployment"]["spec"]["template"]
ON_MILVUS: dict[str, Any] = yaml.safe_load((DEPLOY / "kubernetes-milvus" / "kustomization.yaml").read_text())


def filled(text: str) -> str:
    """With the defaults of Compose's variables in their places."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


COMMAND = [filled(each) for each in SERVICES["lookalike"]["command"]]
OPTIONS = dict(each.removeprefix("--").split("=", 1) for each in COMMAND if each.startswith("--"))


def parsed(arguments: list[str]) -> None:
    """As the command would; raises where it does not know a command, an option or a kind of value."""
    root = get_command(app)
    with root.make_context("lookalike", list(arguments)) as context:
        name, command, rest = root.resolve_command(context, list(arguments))  # type: ignore[attr-defined]
        assert command is not None, arguments
        with command.make_context(name, rest, parent=context):
            pass


def asked_of_lookalike(page: Path) -> Iterator[list[str]]:
    """What the shell blocks of a page ask of the command, within containers too."""
    for block in re.findall(r"^```(?:sh|console)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(re.sub(r"^(\$ )?([A-Z_]+=\S+ )*", "", line), comments=True)
            if words[:1] == ["lookalike"]:
                yield words[1:]
            if words[:3] == ["docker", "compose", "run"]:
                yield words[words.index("lookalike") + 1 :]


def names_told() -> set[str]:
    watch = Watch()
    watch.follow(lambda: (Counts(1, 1, 1, 1), "1"))
    watch.request("/v1/search", "POST", 200, 0.1)
    watch.stage("encode", 0.1)
    watch.refused("queue")
    watch.caption("refined")
    return {
        sample.name
        for family in text_string_to_metric_families(watch.text().decode())
        for sample in family.samples
    }


def test_the_service_starts_by_options_that_exist() -> None:
    parsed(COMMAND)
    assert COMMAND[0] == "serve"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_the_pages_ask_of_the_command_exists(page: Path) -> None:
    asked = list(asked_of_lookalike(page))
    assert len(asked) >= 2
    for arguments in asked:
        parsed(arguments)


def test_files_that_compose_names_are_there() -> None:
    build = SERVICES["lookalike"]["build"]
    context = DEPLOY / build["context"]
    assert (context / build["dockerfile"]).resolve() == DEPLOY / "Containerfile"
    for service in SERVICES.values():
        for mounted in service.get("volumes", ()):
            source, target, *mode = filled(mounted).split(":")
            if source.startswith("."):
                assert mode == ["ro"], mounted
                assert target == "/pictures" or (DEPLOY / source).is_file(), mounted
            else:
                assert source in COMPOSE["volumes"], mounted
        assert set(service["networks"]) <= set(COMPOSE["networks"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_bound(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged") and "network_mode" not in service
    assert service["mem_limit"] and service["pids_limit"] and service["restart"]
    tag = service["image"].rpartition(":")[2]
    assert name == "lookalike" or re.match(r"v?\d+\.\d+", tag), service["image"]


def test_nobody_is_root_in_the_image() -> None:
    (user,) = re.findall(r"^USER (\d+):\d+$", CONTAINERFILE, re.MULTILINE)
    assert int(user) > 0
    last_stage = CONTAINERFILE.rpartition("\nFROM ")[2]
    assert SERVICES["lookalike"]["user"].startswith(f"{user}:") and f"--uid {user} " in last_stage


def test_what_the_image_is_built_from_is_there_and_not_ignored() -> None:
    ignored = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", CONTAINERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    for source in copied:
        assert (ROOT / source).exists() and f"!{source}" in ignored, source
    models = re.findall(r"^ARG MODELS=(\w+)$", CONTAINERFILE, re.MULTILINE)
    for model in models:
        parsed(["models", "pull", model])


def test_only_the_proxy_is_reached_from_outside() -> None:
    assert "ports" not in SERVICES["lookalike"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["prometheus"]["ports"])
    for network in SERVICES["lookalike"]["networks"]:
        assert COMPOSE["networks"][network]["internal"] is True


def test_ports_and_addresses_agree() -> None:
    exposed = re.findall(r"^EXPOSE (.+)$", CONTAINERFILE, re.MULTILINE)[0].split()
    assert exposed == [OPTIONS["port"], OPTIONS["metrics-port"]]
    assert set(re.findall(r"reverse_proxy (\S+)", CADDYFILE)) == {f"lookalike:{OPTIONS['port']}"}
    scraped = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["static_configs"][0]["targets"] == [f"lookalike:{OPTIONS['metrics-port']}"]
    told = COMPOSE["networks"]["inside"]["ipam"]["config"][0]
    proxy = ipaddress.ip_address(SERVICES["proxy"]["networks"]["inside"]["ipv4_address"])
    assert str(proxy) == OPTIONS["proxy"]
    assert proxy in ipaddress.ip_network(told["subnet"])
    assert proxy not in ipaddress.ip_network(told["ip_range"])  # what others get


def test_the_proxy_lets_through_what_the_service_takes() -> None:
    sizes = [int(size) * 1_000_000 for size in re.findall(r"max_size (\d+)MB", CADDYFILE)]
    assert sizes == [Limits().bulk_bytes, Limits().body_bytes]
    compressed = re.findall(r"header Content-Type (\S+)", CADDYFILE)
    assert compressed and not any(fnmatch("text/event-stream", kind) for kind in compressed)


def test_the_health_check_fails_until_the_service_is_ready(service: Any) -> None:
    kind, *program = SERVICES["lookalike"]["healthcheck"]["test"]
    assert kind == "CMD" and f":{OPTIONS['port']}/readyz" in program[2]

    def checked(port: str) -> int:
        code = program[2].replace(f":{OPTIONS['port']}/", f":{port}/")
        return subprocess.run([sys.executable, *program[1:2], code], capture_output=True).returncode

    assert checked(service.url.rpartition(":")[2]) == 0
    assert checked("9") != 0  # nobody listens


def test_what_is_pinned_is_what_the_package_wants() -> None:
    pinned: dict[str, str] = {}
    for line in re.findall(r"^(\S.*==.*?) *\\$", (DEPLOY / "requirements.txt").read_text(), re.MULTILINE):
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate():
            pinned[pin.name] = str(pin.specifier).removeprefix("==")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    assert len(wanted) > 10
    for each in map(Requirement, wanted):
        assert each.specifier.contains(pinned[each.name.lower()]), each


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_cluster_takes_the_manifests(kind: str) -> None:
    """By the schema, with nothing that it does not know; and every file of the folder is used."""
    kubernetes_validate.validate(MANIFESTS[kind], "1.34", strict=True)
    assert {path.name for path in CLUSTER.iterdir()} == {*KUSTOMIZATION["resources"], "kustomization.yaml"}


def test_a_replica_starts_by_options_that_exist_and_writes_nothing() -> None:
    (serving,) = POD["spec"]["containers"]
    parsed(serving["args"])
    told = dict(each.removeprefix("--").split("=", 1) for each in serving["args"] if "=" in each)
    assert "--read-only" in serving["args"]
    assert {port["name"]: str(port["containerPort"]) for port in serving["ports"]} == {
        "http": told["port"], "metrics": told["metrics-port"],
    }  # fmt: skip
    assert POD["metadata"]["annotations"]["prometheus.io/port"] == told["metrics-port"]
    mounted = {mount["mountPath"]: mount for mount in serving["volumeMounts"]}
    assert mounted[str(Path(told["keys-file"]).parent)]["readOnly"] is True
    assert {mount["name"] for mount in mounted.values()} == {each["name"] for each in POD["spec"]["volumes"]}


def test_a_replica_gets_the_build_that_one_value_names() -> None:
    """Its ConfigMap's name follows its content, so that another build is another pod."""
    (fetching,) = POD["spec"]["initContainers"]
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    assert fetching["envFrom"][0]["configMapRef"]["name"] == generated["name"]
    (literal,) = generated["literals"]
    assert fetching["args"][1] == f"$({literal.partition('=')[0]})"
    assert fetching["args"][2] == POD["spec"]["containers"][0]["args"][1]


def test_a_replica_fetches_its_build_by_a_command_that_exists() -> None:
    parsed(POD["spec"]["initContainers"][0]["args"])


def test_nothing_in_a_pod_may_more_than_it_needs() -> None:
    spec = POD["spec"]
    user = spec["securityContext"]
    assert (
        user["runAsNonRoot"] and SERVICES["lookalike"]["user"] == f"{user['runAsUser']}:{user['runAsGroup']}"
    )
    assert user["seccompProfile"] == {"type": "RuntimeDefault"} and not spec["automountServiceAccountToken"]
    for container in (*spec["initContainers"], *spec["containers"]):
        bound = container["securityContext"]
        assert bound["readOnlyRootFilesystem"] is True and bound["allowPrivilegeEscalation"] is False
        assert bound["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"] and container["resources"]["limits"]["cpu"]


def test_replicas_on_a_catalogue_in_milvus_copy_nothing_and_reach_it() -> None:
    manifests = patched(ON_MILVUS["patches"])
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, "1.34", strict=True)
    assert ON_MILVUS["resources"] == ["../kubernetes"]
    (generated,) = ON_MILVUS["configMapGenerator"]
    (former,) = KUSTOMIZATION["configMapGenerator"]
    assert (generated["name"], generated["behavior"]) == (former["name"], "replace")
    (literal,) = generated["literals"]
    name, _, address = literal.partition("=")
    spec = manifests["Deployment"]["spec"]["template"]["spec"]
    assert "initContainers" not in spec
    (serving,) = spec["containers"]
    parsed(serving["args"])
    assert serving["args"][:3] == ["serve", f"$({name})", "--read-only"]
    told, secret = serving["envFrom"]
    assert told["configMapRef"]["name"] == generated["name"]
    assert secret["secretRef"] == {"name": "lookalike-milvus"}
    cache = re.findall(r"^COPY --from=built /models (\S+)$", CONTAINERFILE, re.MULTILINE)[0]
    assert f"{cache}/milvus" in [mount["mountPath"] for mount in serving["volumeMounts"]]
    reached = [
        port["port"] for rule in manifests["NetworkPolicy"]["spec"]["egress"] for port in rule["ports"]
    ]
    assert Address.parse(address).port in reached and {53, 443} <= set(reached)


def patched(patches: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The manifests as Kustomize makes them of JSON patches."""
    manifests = deepcopy(MANIFESTS)
    for patch in patches:
        for change in yaml.safe_load(patch["patch"]):
            place: Any = manifests[patch["target"]["kind"]]
            *folders, last = change["path"].strip("/").split("/")
            for each in folders:
                place = place[int(each)] if isinstance(place, list) else place[each]
            match change["op"], last:
                case "add", "-":
                    place.append(change["value"])
                case "remove", _:
                    del place[last]
                case "replace", _ if isinstance(place, list):
                    place[int(last)] = change["value"]
                case operation, _:
                    assert (last in place) is (operation == "replace"), change
                    place[last] = change["value"]
    return manifests


def test_names_and_ports_of_the_manifests_agree() -> None:
    labels = POD["metadata"]["labels"]
    selectors = [
        MANIFESTS["Deployment"]["spec"]["selector"]["matchLabels"],
        MANIFESTS["Service"]["spec"]["selector"],
        MANIFESTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        MANIFESTS["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector == labels for selector in selectors)
    target = MANIFESTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target["name"] == MANIFESTS["Deployment"]["metadata"]["name"]
    serving = POD["spec"]["containers"][0]
    named = {port["name"] for port in serving["ports"]}
    probes = [serving[kind]["httpGet"] for kind in ("startupProbe", "readinessProbe", "livenessProbe")]
    rules = MANIFESTS["NetworkPolicy"]["spec"]["ingress"]
    assert (
        {probe["port"] for probe in probes}
        == {"http"}
        == {port["targetPort"] for port in MANIFESTS["Service"]["spec"]["ports"]}
    )
    assert {port["port"] for rule in rules for port in rule["ports"]} == named
    assert MANIFESTS["Namespace"]["metadata"]["name"] == KUSTOMIZATION["namespace"]


def test_a_pod_is_given_the_time_to_finish_what_it_accepted() -> None:
    told = POD["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    answers = re.search(r"timeout_graceful_shutdown=(\d+)", SERVING)
    assert answers and POD["spec"]["terminationGracePeriodSeconds"] > int(told[1]) + int(answers[1])


def test_rules_ask_for_metrics_that_exist() -> None:
    told = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    rules = [rule for name in told["rule_files"] for rule in groups(DEPLOY / name)]
    assert len(rules) > 3
    for rule in rules:
        for name in re.findall(r"\b(?:lookalike|process)_\w+", rule["expr"]):
            assert name in names_told(), (rule["alert"], name)
        assert rule["annotations"]["summary"].endswith(".")


def groups(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def test_every_metric_is_explained() -> None:
    def plain(names: set[str]) -> set[str]:
        return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names if not name.endswith("_created")}

    page = (ROOT / "docs" / "operate.md").read_text()
    explained = plain(set(re.findall(r"`((?:lookalike|process)_\w+)", page)))
    told = plain(names_told())
    assert {name for name in told if name.startswith("lookalike_")} <= explained
    assert explained <= told


def test_the_limits_are_told_as_they_are() -> None:
    page, limits = (ROOT / "docs" / "operate.md").read_text(), Limits()
    for told in (
        f"| body of a request | {limits.body_bytes / 1e6:.0f} MB |",
        f"| body of `POST /v1/items` | {limits.bulk_bytes / 1e6:.0f} MB,",
        f"| time for a body | {limits.body_s:.0f} s, {limits.idle_s:.0f} s between two pieces;",
        f"| a picture | {limits.pixels / 1e6:.0f} megapixels |",
        f"| decoding a picture | {limits.decode_s:.0f} s, {limits.decode_bytes / 1e9:.1f} GB,",
        f"| pictures in a request | {limits.pictures} |",
        f"in line for that | {limits.searching} and {limits.waiting} in each process; on more than two cores "
        f"{limits.on(64).searching // 64} and {limits.on(64).waiting // 64} for each |",
        f"put at a time, in line too | {limits.writing} in each process |",
        f"made, in line too | {limits.thumbnails} in each process |",
        f"written at a time | {limits.captions} in each process |",
        f"paged through | {limits.top:,} and {limits.deepest:,} |",
    ):
        assert told in page, told
