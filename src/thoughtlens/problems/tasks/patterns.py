"""The words that `problems.words` tells its problems in.

In a sentence pattern {n} is the person and {1}, {2}, {3} the operations in the order of doing; in a
query pattern {x} is the start value and {k} the number of steps. Every person stands before the
operations, and every word of a held-out pattern stands in some other one too.
"""

from __future__ import annotations

TRAIN_NAMES = (
    "anna ben clara david ella frank grace henry iris jack kate leo mia noah olga paul quinn rosa sam tina "
    "uma victor wendy xavier yara zoe adam bella carl dora emil fiona"
)
HELD_OUT_NAMES = "georg hanna igor julia karl lena max nora"

STEP_WORDS = ("one step", "two steps", "three steps")

VERBS = {
    "does": (
        "adds gains increases_by",
        "subtracts loses decreases_by",
        "multiplies_by scales_by stretches_by",
    ),
    "do": ("add gain increase_by", "subtract lose decrease_by", "multiply_by scale_by stretch_by"),
    "doing": (
        "adding gaining increasing_by",
        "subtracting losing decreasing_by",
        "multiplying_by scaling_by stretching_by",
    ),
    "noun": ("plus a_gain_of a_rise_of", "minus a_loss_of a_drop_of", "times a_factor_of a_scaling_by"),
}
"""Synonyms of +, - and * in each form of the verb, three each; `_` joins words."""

PATTERNS = {
    "does": (
        "{n} first {1} , then {2} , and finally {3} .",
        "first {n} {1} , next {2} , and lastly {3} .",
        "{n} initially {1} , then {2} and lastly {3} .",
        "what {n} does first : {1} ; what comes next : {2} ; and finally : {3} .",
        "every day {n} first {1} , next {2} , finally {3} .",
        "in the morning {n} initially {1} ; then {2} ; at last {3} .",
        "watch {n} , who first {1} , then {2} , and at last {3} .",
        "{n} , as we know , first {1} , next {2} and finally {3} .",
        "at school {n} first {1} , then {2} , lastly {3} .",
        "{n} finally {3} , but first {1} and then {2} .",
    ),
    "do": (
        "the rule of {n} : first {1} , then {2} , finally {3} .",
        "{n} says : initially {1} , next {2} , lastly {3} .",
        "{n} tells you to first {1} , then {2} , and lastly {3} .",
        "to please {n} , first {1} , next {2} and finally {3} .",
        "{n} has a plan : first {1} ; then {2} ; finally {3} .",
        "like {n} , you first {1} , then {2} and at last {3} .",
        "ask {n} and you must initially {1} , then {2} , finally {3} .",
        "with {n} we first {1} , next we {2} , finally we {3} .",
        "the rule of {n} : finally {3} , but initially {1} and next {2} .",
    ),
    "doing": (
        "for {n} it is first {1} , then {2} , finally {3} .",
        "{n} likes initially {1} , next {2} , and lastly {3} .",
        "the game of {n} means first {1} , then {2} and at last {3} .",
        "{n} won with first {1} , next {2} , finally {3} .",
        "{n} enjoys first {1} , then {2} , and lastly {3} .",
        "the work of {n} is initially {1} , then {2} and finally {3} .",
        "{n} likes finally {3} , but first {1} and then {2} .",
    ),
    "noun": (
        "{n} : first {1} , then {2} , finally {3} .",
        "card of {n} : first {1} ; next {2} ; lastly {3} .",
        "{n} wrote first {1} , next {2} and at last {3} .",
        "note for {n} : initially {1} , then {2} , lastly {3} .",
        "{n} needs first {1} , then {2} and finally {3} .",
        "{n} : finally {3} , before that first {1} , then {2} .",
    ),
}
HELD_OUT_PATTERNS = {
    "does": (
        "every day , as we know , {n} first {1} , then {2} , and at last {3} .",
        "at school {n} , who initially {1} , next {2} , finally {3} .",
        "watch {n} : first {1} ; next {2} ; lastly {3} .",
    ),
    "do": (
        "{n} says you must first {1} , next {2} , and finally {3} .",
        "the plan of {n} : initially {1} ; then {2} ; lastly {3} .",
        "ask {n} : first {1} , then we {2} , at last we {3} .",
    ),
    "doing": (
        "the plan of {n} is first {1} , next {2} , and finally {3} .",
        "for {n} the game means initially {1} , then {2} and lastly {3} .",
    ),
    "noun": (
        "rule for {n} : first {1} , next {2} , lastly {3} .",
        "note of {n} : finally {3} , but first {1} , then {2} .",
    ),
}
QUERIES = (
    "what does {n} get after {k} from {x} ?",
    "starting at {x} , where is {n} after {k} ?",
    "{n} begins with {x} ; what is left after {k} ?",
    "if {n} starts from {x} , what comes out after {k} ?",
    "give {n} {x} and take {k} : what is the result ?",
    "we hand {x} to {n} and wait {k} : what now ?",
    "follow {n} from {x} for {k} . where do you end ?",
    "with {x} at the start , what has {n} after {k} ?",
    "{k} with {n} , beginning at {x} , lead where ?",
    "let {n} take {k} from {x} ; what do we see ?",
    "how much has {n} after {k} if the start is {x} ?",
    "now {n} starts with {x} : what is it after {k} ?",
)
HELD_OUT_QUERIES = (
    "if we follow {n} for {k} from {x} , what comes out ?",
    "{n} begins at {x} : where is it after {k} ?",
    "what is the result of {k} with {n} , starting from {x} ?",
)
