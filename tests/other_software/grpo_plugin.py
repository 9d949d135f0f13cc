"""What ms-swift is given for its step of GRPO: a reward, and the miniature's picture token.

ms-swift has the number of Qwen's own picture token in its code. Published Qwen weights do not need this.
"""

import json
import os
from pathlib import Path

from swift.rewards import ORM, orms
from swift.template.templates.qwen import Qwen2VLTemplate

_CONFIG = json.loads(Path(os.environ["POLICY"], "config.json").read_text(encoding="utf-8"))
Qwen2VLTemplate.image_token_id = _CONFIG["image_token_id"]


class Seen(ORM):
    """Writes down which columns a reward is given, and scores the length of a completion."""

    def __call__(self, completions, response, problem, images, **others):
        seen = {
            "completions": len(completions),
            "response": list(response),
            "problem": list(problem),
            "pictures": [len(each) for each in images],
            "others": sorted(others),
        }
        Path(os.environ["SEEN"]).write_text(json.dumps(seen), encoding="utf-8")
        return [float(len(text)) for text in completions]


orms["seen"] = Seen
