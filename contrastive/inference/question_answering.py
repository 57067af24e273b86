"""Questions about an image: which of these answers, put into a sentence, goes best with it?

A dual encoder compares an image with sentences, and captions are statements rather than questions.
So a question becomes a statement with a gap for the answer, and answers are ranked as classes are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from contrastive.console import say
from contrastive.data.sample_lists import one_text, text_list
from contrastive.errors import SpecError
from contrastive.inference.question_forms import ENGLISH, ENGLISH_WORDS, LANGUAGES
from contrastive.inference.zero_shot import classify

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from contrastive.features.cache import FeatureCache
    from contrastive.inference.question_forms import Language
    from contrastive.model.model import ContrastiveModel


AROUND = ' ?!.¿¡\uff1f\uff01\u3002"\u201c\u201d\u201e\u00ab\u00bb'
"""What may stand around a question: its marks, quotes and spaces."""


MARKS = " ?\uff1f\u061f"


def answer(
    model: ContrastiveModel,
    images: Any,
    question: str,
    answers: Iterable[str],
    *,
    templates: Sequence[str] | None = None,
    min_precision: float | None = None,
    cache: FeatureCache | None = None,
) -> Tensor:
    """Return the probability ``[N, A]`` of each of A answers for each image; rows sum to 1.

    It is of these answers among each other: one is the likeliest even if all are wrong. With
    ``min_precision`` each has a probability of its own, and a row of zeros means none of these.

    Args:
        model: a model with an image and a text tower.
        images: one image or several, in any form that ``ContrastiveModel.embed`` takes.
        question: such as ``what color is the car?`` (in English, Spanish, German, French,
            Portuguese, Chinese or Japanese), or a statement with ``{}`` for the answer.
        answers: what is ranked.
        templates: sentences in which ``{statement}`` stands for the question as a statement with
            a gap, ``{question}`` for its own words and ``{}`` for the answer; those of the
            question's language if None.
        min_precision: the share of the answers with a probability above 0 that is to be right; 0
            gives all their own. The model has to be calibrated.
        cache: keeps the features of frozen encoders.

    Raises:
        SpecError: the question is empty, no answer is given, one is given twice, or a template has
            no {} for the answer; or the model is not calibrated for a precision.
        BadSample: an image cannot be read; names it.

    Example:
        >>> answer(model, [red, blue], "what color is it?", ["red", "blue", "green"]).shape
        torch.Size([2, 3])
    """
    sentences = told_sentences(question, templates)
    names = text_list(answers, "answer")
    return classify(
        model, images, names, templates=sentences, min_precision=min_precision, cache=cache
    )


def told_sentences(question: str, templates: Sequence[str] | None = None) -> list[str]:
    """Return ``sentences_of``, and say so if no form fits the question."""
    sentences = sentences_of(question, templates)
    if "{}" not in question and form_of(question) is None:
        say(
            f"no form fits the question {question!r}, which is quoted as it is; give a statement "
            "with {} for the answer instead, such as: 'the car is {}'"
        )
    return sentences


def sentences_of(question: str, templates: Sequence[str] | None = None) -> list[str]:
    """Return the templates for a question, each with ``{}`` for the answer.

    Without templates, they are those of its language. A question with a gap is itself a statement,
    and templates that quote the question are left out.

    Raises:
        SpecError: the question is empty, or a template has no {} for the answer.
    """
    if not one_text(question, "question").strip():
        msg = "the question is empty; ask something, such as: what color is the car?"
        raise SpecError(msg)
    if templates is None:
        templates = _usual_templates(question)
    templates = text_list(templates, "template")
    for template in templates:
        if "{}" not in template and "{statement}" not in template:
            msg = f"template {template!r} has neither {{}} nor {{statement}} for the answer"
            raise SpecError(msg)
    asked = " ".join(question.split())
    if "{}" in asked:
        templates = [t for t in templates if "{question}" not in t] or ["{statement}"]
    words = {"{statement}": statement_of(asked), "{question}": asked}
    return [
        re.sub(r"\{(?:statement|question)\}", lambda found: words[found[0]], template)
        for template in templates
    ]


def _usual_templates(question: str) -> Sequence[str]:
    """Return the templates of a question's language; of another's statement, that alone."""
    if found := form_of(question):
        return found[0].templates
    is_english = ENGLISH_WORDS & {*question.lower().split()}
    return ENGLISH.templates if is_english or "{}" not in question else ("{statement}",)


def statement_of(question: str) -> str:
    """Return what a caption would say, with ``{}`` for the answer.

    ``what color is the car?`` becomes ``the car is {}``, ``how many dogs are there?`` becomes
    ``there are {} dogs``. A question of no known form becomes ``the answer to '...' is {}``.
    """
    asked = " ".join(question.split())
    if "{}" in asked:
        return asked
    found = form_of(asked)
    return found[1] if found else f"the answer to '{asked.rstrip(MARKS)}?' is {{}}"


def form_of(question: str) -> tuple[Language, str] | None:
    """Return the language of a question and its statement, if a form fits it."""
    asked = " ".join(question.split()).strip(AROUND).replace("\u2019", "'")
    asked = re.sub(r"^(what|who|where)'s ", r"\1 is ", asked, flags=re.IGNORECASE)
    asked = asked[:1].lower() + asked[1:]  # a statement may have this word in its midst
    for language in LANGUAGES:
        for form, statement in language.rewrites:
            if found := re.fullmatch(form, asked, re.IGNORECASE):
                return language, found.expand(statement)
    return None
