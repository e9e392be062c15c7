"""Prompts of an exact length that no earlier request has seen a prefix of.

Every word, with the space before it, is one token of the default model's vocabulary.
"""

import random

_TEXT = (
    "time year people way day man thing woman life child world school state family student group country problem "
    "hand part place case week company system program question work government number night point home water room "
    "mother area money story fact month lot right study book eye job word business issue side kind head house "
    "service friend father power hour game line end member law car city community name president team minute idea "
    "kid body information back parent face others level office door health person art war history party result "
    "change morning reason research girl guy moment air teacher force education green red blue white black small "
    "large early young old new long little great good first last high different local social important public able "
    "known simple clear close common dark deep dry easy fast fine free full happy hard heavy hot light low main near "
    "nice poor quick quiet ready rich round safe sharp short slow soft strong sweet tall thick thin warm weak wide "
    "wild wise river mountain forest garden bridge road street village market window table chair paper letter music "
    "song dance bird horse dog cat fish tree flower stone sand snow rain wind storm cloud sun moon star sky sea "
    "island ship boat train plane wheel"
)
WORDS = _TEXT.split()


def words(name: str, count: int) -> str:
    """`count` words, one token each; another name gives other words from the first one on."""
    return "".join(f" {word}" for word in random.Random(name).choices(WORDS, k=count))
