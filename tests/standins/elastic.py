"""A stand-in for a node of Elasticsearch or OpenSearch, and for curl before it."""

from __future__ import annotations

import json
import re

from tests.standins.product import Link, Product, Refused, say

FLAGS = {"--disable", "--silent", "--show-error", "--fail"}


class Elastic(Product):
    """One node with an index of two shards."""

    def __init__(self) -> None:
        super().__init__()
        self.flushes = 0
        self.failing = 0

    def execute(self, session: int, statement: str) -> tuple[str, int]:
        """``METHOD PATH``."""
        if statement == "POST /_flush":
            self.flushes += 1
            return json.dumps(
                {"_shards": {"total": 2, "successful": 2 - self.failing, "failed": self.failing}}
            ), 0
        if asked := re.fullmatch(r"GET /_nodes/_local/jvm\?filter_path=(\S+)", statement):
            node = {"name": "node-1", "jvm": {"start_time_in_millis": self.born}}
            wanted = {path.split(".")[2] for path in asked[1].split(",")}
            return json.dumps({"nodes": {"x1": {key: node[key] for key in node if key in wanted}}}), 0
        raise Refused("curl: (22) The requested URL returned error: 404", 22)


product = Elastic


def curl(link: Link, arguments: list[str]) -> int:
    """What curl would ask for."""
    words = list(arguments)
    method = words[words.index("--request") + 1] if "--request" in words else "GET"
    if not {*words} >= FLAGS or words[words.index("--config") + 1] != "/dev/null":
        say("curl: option ?: is unknown")
        return 2
    path = re.sub(r"^https?://127\.0\.0\.1:9200", "", words[-1])
    answer = link.ask(say=f"{method} {path}")
    if answer.get("down"):
        say("curl: (7) Failed to connect to 127.0.0.1 port 9200 after 0 ms: Couldn't connect to server")
        return 7
    say(answer["text"])
    return int(answer["status"])
