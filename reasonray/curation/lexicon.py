"""The lexicon of the behaviours: phrases that show one, as regular expressions over text in lower case.

They are first-person frames ("let me check", "Wait, that's wrong") and not bare words, so that a waiter, a bank check
or an answer that is "incorrect." does not count. Every repeat is bounded, so that the time is linear in the text. After
a change raise behaviours.DETECTORS_VERSION.
"""

import re

_I = r"(?:let me|let[’']?s|let us|i|we|i[’']ll|we[’']ll|i[’']m going to|i am going to|i[’']d)"
_WILL = (
    r"(?:\s+(?:just|now|also|first|quickly|then|will|can|could|should|must|shall"
    r"|need to|have to|want to|better|go)){0,3}"
)
_SELF = rf"\b{_I}{_WILL}\s+"
OPENERS = '.!?:;…>—–(*"“\n'
"""Characters after which a sentence or clause opens."""
_OPENING = rf"(?:\A|[{OPENERS}]|\s-)[\s*_#\"“(-]{{0,6}}"
_FILLER = r"(?:(?:oh|hmm+|but|no|oops|so|and|now|ok|okay|alright|well|ah|yes|then|just)\b[\s,.…—–-]{1,4}){0,2}"
_IT = r"(?:that|this|it|the (?:answer|result|total|sum|solution))"
_IS = r"(?:[’']s| is| was| looks| seems)"
_ENDS = r"(?=\s*[.,!:;)—–]|\s*\Z)"
_CHECK = r"(?:(?:double|cross|sanity|re)[-\s]?)?(?:check|verify|validate|confirm|test)"
# A reasoner tests a formula or a value; "test 50 lamps" is the story of a problem.
_TRIED = r"(?:this|that|it|if|whether|with|by|my|our|the|a (?:few|simple|small|quick)|some|a?n?other|[a-z]\w? ?=)"
_CHECK_OWN = (
    rf"(?:{_CHECK}\b(?<!test)(?! (?:out|in|into|for)\b)|test\b(?= {_TRIED})"
    r"|make sure\b(?= (?:this|that|it|the|my|i|we)\b))"
)
_WAY = r"(?:way|approach|method|route|idea|strategy|angle|formula|technique)"
_MINE = (
    r"my (?:(?:earlier|previous|first|initial|last|own) )?(?:assumption|index|calculation|answer|count|sum|total"
    r"|approach|reasoning|formula|equation|arithmetic|result|logic|guess|interpretation|factorization|code|solution|method)"
)
_WORK = (
    r"(?:this|that|it|if|whether|by|again|back|my|our|your"
    r"|(?:the|each|every)(?: \w+)? (?:answer|result|total|sum|solution|work|math|equation|condition|calculation"
    r"|arithmetic|value|product|numbers?|steps?|computation|case))\b"
)
_ACT = (
    r"(?:find|compute|calculate|determine|work out|figure out|solve|add|subtract|multiply|divide|convert|count|list"
    r"|simplify|factor|write|express|identify|set up|isolate|evaluate|note|define|understand)"
)

OPENING: dict[str, tuple[str, ...]] = {
    "verification": (
        rf"{_CHECK}(?=\s*:)",
        rf"{_CHECK}(?=\s+(?:{_WORK}|[a-z] ?=))",
        r"(?:double|sanity|quick|cross)[-\s]check\b",
        r"(?:(?:re|double|cross)[-\s]?)?(?:checking|verifying)\b"
        r"(?=\s*[:,]|\s+(?:this|that|my|our|the|if|it|by)\b)",
        r"(?:self-)?verification(?=[*_\s]{0,4}:)",
        rf"(?:yes|yep|great|good|indeed)[,.!]? (?:{_IT}{_IS}? )?(?:indeed )?(?:correct|right|matches|checks out)"
        rf"{_ENDS}",
        r"correct(?=\s*[.!]|\s*\Z)",
        r"(?:plugging|substituting) (?:[^.!?\n]{1,30} )?(?:back\b|in(?:to)? the original\b)",
        r"is (?:that|this|it) (?:right|correct)(?=\s*\?)",
        r"does (?:that|this|it) (?:satisfy|match|hold|work|make sense|add up|agree|fit)\b",
        r"just to (?:be (?:sure|safe|certain)|check|confirm|verify)\b",
        r"testing (?:this|that|it|(?:the|my|our) (?:function|code|formula|program|solution|answer))\b",
        r"as an? (?:(?:sanity|quick|double|cross|final)[-\s]){0,2}check\b",
    ),
    "backtracking": (
        rf"(?:wait|hold on|hang on)(?!,? (?:but )?{_SELF[2:]}{_CHECK_OWN})"
        r"(?=\s*[,.!…:—–]|\s+-|\s*\Z|\s+(?:no|that|this|i|actually|but|is|we|maybe|what|it"
        r"|a (?:minute|moment|second))\b)(?: a (?:minute|moment|second))?",
        r"actually(?=\s*,|\s+(?:no|wait|that[’']?s|that is|i (?:was|made|need|should|think))\b)",
        r"(?:scratch that|on second thoughts?|oops|my mistake|my bad|backtracking|going back to)\b",
        r"correction(?=\s*:)",
        r"never ?mind(?=\s*[,.!—–])",
        r"dead end(?=\s*[.,:!])",
        r"oh,? no(?=\s*[,.!—–])",
        r"hmm+,? no(?=\s*[,.!—–])",
        r"no, (?:that|this|it)(?:[’']s| is| was| would)\b",
        r"sorry,? (?:(?:that|this|it) (?:should|is|was)|i (?:meant|made|was))\b",
        r"(?:oh|ah)[,.!]? (?:right|i see|wait|yes)\b[\s,.!—–-]{1,4}(?:i|we) (?:used|forgot|missed|counted|added"
        r"|took|assumed|confused|swapped|dropped|had|should|wrote)\b",
    ),
    "subgoals": (
        rf"(?:first|second|third|next|then|finally|lastly)(?:ly)?,? (?:{_I}{_WILL} )?{_ACT}\b",
        rf"now,? {_I}{_WILL} {_ACT}\b",
        rf"(?:first|next|then|now|finally),? to [^.,!?\n]{{1,30}}, (?:{_I}{_WILL} )?{_ACT}\b",
        rf"\d{{1,2}}[.)] [*_]{{0,2}}{_ACT}\b",
        r"next up(?=\s*:)",
        r"once (?:i|we) (?:have|know|find|get) [^.,!?\n]{1,40}, (?:i|we) (?:can|could|will|need)\b",
        r"(?:i|we) need (?:to (?:find|know|do|work out) )?(?:two|three|four|several) "
        r"(?:things|quantities|steps|values)\b",
        rf"(?:first|second|next|finally),? {_I} (?:will|need|must|should|have to|can)\b",
        r"step (?:\d{1,3}|one|two|three|four|five)(?=[*_]{0,2}\s?[:.)—–-])",
        r"case (?:\d{1,2}|one|two|three|four|[a-d])(?=[*_]{0,2}\s?:(?! ?[$€£]?\d+\s))",
        r"(?:(?:my|the|here[’']s (?:my|the|a)) )?plan(?=\s*:(?! ?[$€£]?\d+\s)| is to\b)",
        r"sub-?(?:goal|problem|task)s?(?=[ \d]{0,4}:)",
        r"(?:the|my|our) (?:first|next|last|final) (?:step|thing|task) is to\b",
        r"(?:now|then),? (?:i|we) (?:need|have|want) to\b",
    ),
    "backward_chaining": (
        r"(?:in order )?to (?:get|reach|obtain|arrive at|make (?:the|this|it|both|\d+(?=,))|end up with|end at"
        r"|have|prove|show)(?! (?:to|home|there|here|up|in|on|dressed)\b)[^.,!?\n]{0,40}, "
        r"(?:(?:i|we)(?:[’']d| would)? (?:need|must|have to|want)|the (?:last|final))\b",
        r"(?:starting|start|going|reasoning) (?:back(?:wards?)? )?from the "
        r"(?:end|answer|goal|target|result|conclusion|final \w+)\b"
        r"(?! of (?:the|a|his|her) (?!problem|story|question|process|chain|sequence))",
        r"(?:the |my |our )?(?:target|goal) is [^.,!?\n]{1,30}, so (?:i|we) (?:need|want|must|have to|could)\b",
        r"(?:if|suppose|assume) the (?:final|last|ending) [^.,;!?\n]{1,50}[,;] (?:then )?(?:before (?:it|that|this)"
        r"|(?:\w+ ){1,5}(?:was|were|must have been|had been))\b",
        r"what (?:would|must|has to|needs to) (?:have to )?be true\b",
        r"(?:undo|reverse) the (?:\w+ing|steps?|operations?|last)\b",
        r"(?:backwards?|in reverse)(?=\s*[:,])",
        r"(?:work(?:ing)?|thinking|reasoning) (?:this |it )?backwards?\b",
    ),
}
"""The phrases of each behaviour that count at the opening of a sentence or clause."""

ANYWHERE: dict[str, tuple[str, ...]] = {
    "verification": (
        rf"{_SELF}{_CHECK_OWN}",
        rf"{_SELF}see (?:if|whether) (?:that|this|it|everything) (?:makes sense|works|holds|fits|adds up|matches"
        r"|is (?:right|correct))\b",
        r"\bthen (?:double|cross|re)[-\s]?check\b",
        r"\bso (?:the|my|our) (?:code|answer|result|formula|solution) (?:is|must be) (?:right|correct)\b",
        r"\bwhich is what (?:the (?:problem|question)|we|i) (?:says?|said|gives?|got|had|wanted|expected|found)\b",
        rf"{_SELF}(?:plug|substitute) (?:[^.!?\n]{{1,30}} )?back\b",
        rf"\bto (?:(?:double|cross)[-\s]?)?(?:verify|check) {_WORK}",
        r"\bto (?:be sure|double[-\s]check|verify)(?=\s*[,:])",
        rf"\b{_IT} checks out\b",
        rf"\b{_IT}{_IS} (?:indeed )?correct{_ENDS}",
        r"\b(?:which|this|that) (?:indeed )?(?:matches|agrees with|is consistent with) (?:the|what|our|my)"
        r" (?:answer|result|total|sum|given|original|expected|earlier|first|i|we|calculation|problem)\b",
    ),
    "backtracking": (
        rf"{_SELF}(?:reconsider|re-?think|re-?do|re-?calculate|re-?compute|backtrack|start over|start again"
        r"|try again|re-?examine|re-?read|revise|go back|correct (?:that|this|my|the error)"
        r"|fix (?:that|this|my|the (?:error|mistake))|try (?:a different|another|something else)"
        rf"|(?:think of|use|find|look for|consider|switch to) (?:a different|another|some other) {_WAY})\b",
        r"\b(?:that|this)(?:[’']s| is| was| must be| looks| seems)(?: \w+ly)? "
        r"(?:wrong|incorrect|not (?:quite |exactly |entirely )?(?:right|correct|it|matching|working)|a mistake"
        r"|an error)\b",
        r"\b(?:that|this) (?:can[’']t|cannot|could not|couldn[’']t) be (?:right|correct|it|true)\b",
        r"\b(?:that|this) (?:isn[’']t|wasn[’']t|doesn[’']t (?:look|seem)|does not (?:look|seem)) "
        r"(?:right|correct|it)\b",
        r"\b(?:that|this) (?:doesn[’']t|does not|didn[’']t|won[’']t) (?:work|match|add up|make sense)\b",
        r"\bi(?:[’']ve| have)? (?:just )?(?:made|see|found|spotted|notice) (?:an?|my) (?:\w+ )?(?:error|mistake)\b",
        r"\bi (?:was wrong|forgot to|mixed up|messed up|mis-?(?:counted|read|calculated|added|took|interpreted"
        r"|understood|wrote|copied))\b",
        rf"\b{_MINE}\b[^.,!?\n]{{0,30}} (?:is|was|must be|has to be) (?:wrong|off|incorrect|mistaken|flawed)\b",
        rf"\b(?:this|that) {_WAY} (?:fails|failed|breaks|leads nowhere|doesn[’']t|isn[’']t|won[’']t)\b",
        r"\b(?:this|that|it)(?:[’']s| is) (?:getting|becoming) (?:too |very |quite |really )?"
        r"(?:messy|complicated|tedious|unwieldy)\b",
        r"\b(?:isn[’']t|is not|wasn[’']t) getting (?:me|us) (?:any|no)where\b",
        r"\bi was (?:assuming|treating|misreading|wrongly|mistakenly)\b(?! (?:charged|told|sent|given|billed))",
        r"\bcontradicts what (?:i|we)\b",
        r"\balternatively,? (?:maybe|perhaps) (?:i|we)\b",
    ),
    "subgoals": (
        rf"{_SELF}(?:start|begin) (?:by|with)\b(?! the (?:end|answer|goal|target|desired|final)\b)",
        r"\b(?:let me|let[’']?s|let us|i[’']ll|we[’']ll|(?:i|we) (?:will|should|must|need to|have to|can)) first\b",
        rf"{_SELF}break down (?:this|it|the)\b",
        rf"{_SELF}(?:tackle|handle|deal with|solve|take) [^.,!?\n]{{1,40}} first\b",
        rf"{_SELF}(?:consider|distinguish|look at) (?:the )?(?:two|three|four|several|following) (?:\w+ )?cases\b",
        rf"{_SELF}(?:break|split|divide|decompose) (?:this|it|that|the (?:problem|task|question|calculation))\b",
        r"\bbreaking (?:this|it|the (?:problem|task|question|calculation)) (?:down|up|into)\b",
        rf"{_SELF}(?:tackle|handle|deal with|take|solve|do|go through|approach) "
        r"(?:this|it|the \w+|each \w+|one \w+) (?:in (?:\w+ )?(?:parts|stages|steps|pieces)|separately"
        r"|at a time|step by step)",
    ),
    "backward_chaining": (
        rf"{_SELF}(?:work|reason|think|solve) (?:this |it |the problem )?(?:backwards?|in reverse)\b",
        r"\bby working backwards?\b",
        rf"{_SELF}(?:start|begin|work back) (?:with|from|at) the (?:end|answer|goal|target|desired|final)\b",
        rf"{_SELF}(?:undo|reverse) (?:the|each|every|these|those) (?:steps?|operations?|last)\b",
        r"\b(?:undoing|reversing) (?:the|each|every) (?:steps?|operations?|process|last)\b",
        r"\bfor (?:that|this|it|[^\s.,!?]{1,8}|the [^.,!?\n]{1,25}) to (?:be|hold|work|happen|equal)\b"
        r"[^.,!?\n]{0,20}, (?:\w+ ){1,4}(?:must|needs?|has to|have to)\b",
        r"\bit(?:[’']s| is| would be)? (?:suffices|sufficient|enough) to (?:show|find|prove|know)\b",
        r"\bwhat (?:do|would|must) (?:i|we) (?:need|have)\b[^.!?\n]{0,30} (?:to get|to reach|before)\b",
    ),
}
"""The phrases of each behaviour that count anywhere."""

OPENED = re.compile(rf"{_OPENING}{_FILLER}\Z")
"""The end of the text before an opening: the start of a sentence or clause, with up to two filler words."""
