"""Forms of questions in some languages, and what a caption would say instead, with a gap.

The commonest forms only: what colour, what is, where, how many, is there.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Language:
    """Questions of one language."""

    templates: tuple[str, ...]
    """Sentences for an answer, whose embeddings are averaged."""
    rewrites: tuple[tuple[str, str], ...]
    """Forms of questions, as patterns, and their statements; the first that fits is taken."""


PLACES = r"(?:in|on|at|under|over|above|below|behind|beside|near|inside|next to|in front of)"
ACTS = (
    r"(?:holding|wearing|eating|drinking|riding|carrying|playing(?: with)?|reading|using|watching|"
    r"looking at|made of)"
)
POSES = r"(?:sitting|standing|lying|sleeping|walking|running|swimming|playing)"
WHAT = r"(?:what|which|who)(?: (?:(?:kind|type|sort|breed|color|colour) of )?[\w-]+)??"
ENGLISH = Language(
    ("{statement}", "a photo where {statement}", "Q: {question} A: {}"),
    (
        (r"how many (.+?) (are|is) there(.*)", r"there \2 {} \1\3"),
        (rf"how many (.+?) (are|is) ({PLACES} .+)", r"there \2 {} \1 \3"),
        (r"(?:what|which) (?:is|are) there (.+)", r"there is {} \1"),
        (rf"(is|are) there .+? ({PLACES} .+)", r"there \1 {} \2"),
        (r"(is|are) there .+", r"there \1 {}"),
        (r"what (is|are) (.+) doing", r"\2 \1 {}"),
        (rf"{WHAT} (is|are) (.+) ({ACTS})", r"\2 \1 \3 {}"),
        (rf"where (is|are) (.+) ({POSES})", r"\2 \1 \3 {}"),
        (rf"{WHAT} (is|are) ({PLACES} .+|\w+ing\b.*)", r"{} \1 \2"),
        (rf"(?:where|how|{WHAT}) (is|are) (.+)", r"\2 \1 {}"),
    ),
)

EN = r"(?:en|sobre|bajo|debajo de|encima de|detrás de|delante de|junto a|dentro de)"
SPANISH = Language(
    ("{statement}", "una foto en la que {statement}", "Pregunta: {question} Respuesta: {}"),
    (
        (r"de qu[eé] color (es|son) (.+)", r"\2 \1 de color {}"),
        (r"cu[aá]nt[oa]s (.+?) hay(.*)", r"hay {} \1\2"),
        (rf"qu[eé] (?:\w+ )?hay ({EN} .+)", r"hay {} \1"),
        (r"qu[eé] est[aá] haciendo (.+)", r"\1 está {}"),
        (r"d[oó]nde (est[aá]n?) (.+)", r"\2 \1 {}"),
        (r"(?:qu[eé]|qui[eé]n|cu[aá]l)(?: \w+)? (es|son) (.+)", r"\2 \1 {}"),
        (rf"hay .+? ({EN} .+)", r"hay {} \1"),
        (r"hay .+", r"hay {}"),
    ),
)

AUF = r"(?:in|im|auf|an|am|unter|über|hinter|neben|vor)"
STEHT = r"(?:ist|sind|liegt|liegen|steht|stehen|sitzt|sitzen)"
GERMAN = Language(
    ("{statement}", "ein Foto: {statement}", "Frage: {question} Antwort: {}"),
    (
        (r"welche farbe (hat|haben) (.+)", r"\2 \1 die Farbe {}"),
        (rf"wie viele (.+?) (?:gibt es|{STEHT}) ({AUF} .+)", r"{} \1 \2"),
        (rf"wie viele (.+?) (?:gibt es|{STEHT}).*", r"{} \1"),
        (rf"(?:was|wer) ({STEHT}) ({AUF} .+)", r"{} \1 \2"),
        (r"was (?:macht|machen) (.+)", r"\1 {}"),
        (rf"wo ({STEHT}) (.+)", r"\2 \1 {}"),
        (r"(?:was|wer|wie)(?: für \w+)? (ist|sind) (.+)", r"\2 \1 {}"),
        (rf"gibt es .+? ({AUF} .+)", r"es gibt {} \1"),
        (r"gibt es .+", r"es gibt {}"),
    ),
)

DANS = r"(?:dans|sur|sous|derrière|devant|à côté de)"
FRENCH = Language(
    ("{statement}", "une photo où {statement}", "Question : {question} Réponse : {}"),
    (
        (r"de quelle couleur (est|sont) (.+)", r"\2 \1 de couleur {}"),
        (
            r"combien (?:de |d'|y a-t-il de |y a-t-il d')(.+?)(?: y a-t-il)?( (?:dans|sur) .+)?",
            r"il y a {} \1\2",
        ),
        (r"qu'est-ce que c'est", r"c'est {}"),
        (rf"(?:qu'est-ce qu'il y a|qu'y a-t-il) ({DANS} .+)", r"il y a {} \1"),
        (r"que (?:fait|font) (.+)", r"\1 {}"),
        (r"où (?:se trouve|(est|sont)) (.+)", r"\2 est {}"),
        (r"(?:quel|quelle|quels|quelles|qui)(?: \w+)? (est|sont) (.+)", r"\2 \1 {}"),
        (rf"(?:est-ce qu'il y a|y a-t-il) .+? ({DANS} .+)", r"il y a {} \1"),
        (r"(?:est-ce qu'il y a|y a-t-il) .+", r"il y a {}"),
    ),
)

EM = r"(?:em|n[oa]s?|sobre|sob|debaixo d[eoa]s?|atrás d[eoa]s?|ao lado d[eoa]s?)"
HA = r"(?:há|existem?|tem|têm)"
PORTUGUESE = Language(
    ("{statement}", "uma foto em que {statement}", "Pergunta: {question} Resposta: {}"),
    (
        (r"(?:de )?que cor (é|são|tem|têm) (.+)", r"\2 é de cor {}"),
        (rf"quant[oa]s (.+?) {HA}(.*)", r"há {} \1\2"),
        (rf"o que {HA} ({EM} .+)", r"há {} \1"),
        (r"o que (.+) est(?:á|ão) fazendo", r"\1 está {}"),
        (r"onde (está|estão|fica|ficam) (.+)", r"\2 \1 {}"),
        (r"(?:o que|quem|qual|que \w+) (é|são) (.+)", r"\2 \1 {}"),
        (rf"{HA} .+? ({EM} .+)", r"há {} \1"),
        (rf"{HA} .+", r"há {}"),
    ),
)

# the word that asks stands where the answer does
CHINESE = Language(
    ("{statement}", "一张照片,{statement}", "问题:{question}答案:{}"),
    (
        (r"(.*)(?:什么|哪种)(?:颜色|东西|动物)(.*?)[吗呢]?", r"\1{}\2"),
        (r"(.*在)(?:哪里|哪儿|做什么|干什么)[吗呢]?", r"\1{}"),
        (r"(.*)(?:什么|多少|几(?![何乎])|谁)(.*?)[吗呢]?", r"\1{}\2"),
        (r"(.*有)没有.+", r"\1{}"),
        (r"(.*有).+吗", r"\1{}"),
    ),
)

TO_TRADITIONAL = str.maketrans(
    "什么颜东动里儿几谁没吗张问题干做", "什麼顏東動裡兒幾誰沒嗎張問題幹做"
)
TRADITIONAL_CHINESE = Language(
    tuple(template.translate(TO_TRADITIONAL) for template in CHINESE.templates),
    tuple((form.translate(TO_TRADITIONAL), said) for form, said in CHINESE.rewrites),
)

KANA = r"(?=.*[\u3041-\u30ff])"  # 何 is Chinese, too
JAPANESE = Language(
    ("{statement}", "写真:{statement}", "質問:{question} 答え:{}"),
    (
        (KANA + r"(.*)(?:何色|どんな色|どこ|誰|だれ|いくつ)(.*?)か?", r"\1{}\2"),
        (KANA + r"(.*)何([匹人個本台枚羽頭冊].*?)か?", r"\1{}\2"),
        (KANA + r"(.*)(?:何|なに|なん)(.*?)か?", r"\1{}\2"),
        (r"(?:(.*に)は?)?.+が(い|あり)ますか", r"\1{}が\2ます"),
    ),
)

LANGUAGES = (
    *(ENGLISH, SPANISH, GERMAN, FRENCH, PORTUGUESE, JAPANESE),
    *(CHINESE, TRADITIONAL_CHINESE),
)
ENGLISH_WORDS = frozenset(("the", "there", "it", "this", "these", "with"))
"""Words that statements in English have, and other languages in Latin script do not."""
YES_OR_NO = frozenset(
    (
        *("yes", "no", "sí", "ja", "nein", "oui", "non", "sim", "não", "sì", "nee", "tak", "nie"),
        *("nej", "evet", "да", "нет", "是", "不是", "有", "没有", "沒有", "はい", "いいえ", "네"),
    )
)
"""Answers that captions hardly say."""
