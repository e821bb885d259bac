r"""CHAT transcripts (`*.cha`, MacWhinney 2000), the form in which CHILDES and TalkBank distribute speech.

    @Begin                                headers begin with @ and are left out
    *MOT:   do you want a cookie ?        an utterance: speaker, a tab, what was said; a line that begins with a
            a big one ?                   tab goes on
    %mor:   mod|do pro|you ...            annotation of the utterance, left out

A transcript is one document, a line an utterance: `*MOT:` and a tab stay in front (`data.speaker_labels: remove` drops
them), and the codes inside an utterance are for the cleaner of `childes`, whose domain every transcript has.
"""

from __future__ import annotations

from collections.abc import Iterable

DOMAIN = "childes"
RULE = "one a transcript"


def transcript(lines: Iterable[str]) -> str:
    r"""Return the utterances of a transcript, one a line.

    >>> transcript(["@Begin", "*MOT:\tdo you want", "\ta cookie ?", "%mor:\tmod|do", "*CHI:\tyes .", "@End"])
    '*MOT:\tdo you want a cookie ?\n*CHI:\tyes .'
    """
    utterances: list[str] = []
    inside = False
    for line in lines:
        if line.startswith("\t"):
            if inside:
                utterances[-1] += " " + line.strip()
            continue
        inside = line.startswith("*")
        if inside:
            utterances.append(line.rstrip())
    return "\n".join(utterances)
