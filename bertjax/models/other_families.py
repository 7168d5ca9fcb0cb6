"""Names of model families whose checkpoints may look like one another's."""

import re

_FAMILIES = (
    *("albert", "altclip", "bertgeneration", "bigbird", "camembert", "chineseclip", "convbert", "data2vec"),
    *("debertav2", "deberta"),
    *("distilbert", "electra", "ernie", "flava", "layoutlm", "longformer", "markuplm", "megatronbert", "mobilebert"),
    *("modernbert", "mpnet", "nezha", "nomicbert", "nystromformer", "rembert", "xlmroberta", "roberta", "rocbert"),
    *("roformer", "splinter", "squeezebert", "tapas", "visualbert"),
    *("bros", "esm", "fnet", "lilt", "luke", "mra", "vilt", "xmod", "yoso"),
)
_SHORT = 4
"""A family's name of so few letters may occur in other words."""


def other_family(name: str) -> str | None:
    """The family that a class or a module is named after, such as "xlmroberta" for "xlm_roberta"; None if unknown."""
    plain = re.sub("[^a-z0-9]", "", name.lower())
    return next((x for x in _FAMILIES if plain == x or (len(x) > _SHORT and x in plain)), None)
