"""Formatting: one form for every plan, the same meaning, the comments kept."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from plandsl.diagnostics import PlanError
from plandsl.grammar.fmt import format_text, same_tree
from plandsl.grammar.parse import parse
from plandsl.grammar.tokens import scan
from tests.draws import draws
from tests.test_parse import SAMPLES

UGLY = """\


# sample
let   b=4*2GB ;
model   z  {

  # a comment
  a=1,b   =  2 ,   # c1
  long_name = - 3*( 4+5 ) ;  # c2
  link{topology=mesh},x = f (a,
     b , over=c,
  ), y = [ 1 , 2,
    3, ]


  t = a +   # why
      b
  block  dense[layers=0 .. 3] x [ tokens,hidden ]{h=norm( x )@w [a , b]}
  empty{  }
  s = "a  b" , p = 95%,
\t}
sharding s { mesh x=2,y = 4 ; heads,kv_heads,
ffn->x , y
  in head{heads -> x}}
search q { vary a.b in 1 .. 8 by*2, c in [ 1..4 , -2 ] ; require not(a<=b)and c  == 1
}
# end"""

TIDY = """\
# sample
let b = 4 * 2 GB
model z {
  # a comment
  a = 1, b = 2              # c1
  long_name = -3 * (4 + 5)  # c2
  link { topology = mesh }, x = f(a,
    b, over = c,
  ), y = [1, 2,
    3]

  t = a +  # why
    b
  block dense [layers = 0..3] x[tokens, hidden] { h = norm(x) @ w[a, b] }
  empty {}
  s = "a  b", p = 95 %
}
sharding s { mesh x = 2, y = 4; heads, kv_heads,
    ffn -> x, y
  in head { heads -> x } }
search q { vary a.b in 1..8 by * 2, c in [1..4, -2]; require not (a <= b) and c == 1
}
# end
"""


def comments(text: str) -> list[str]:
    return sorted(t.text.rstrip() for t in scan(text, "t") if t.kind == "COMMENT")


def check(text: str) -> str:
    out = format_text(text, "t")
    assert format_text(out, "t") == out
    assert same_tree(parse(out, "t")[0], parse(text, "t")[0])
    assert comments(out) == comments(text)
    assert not any(line != line.rstrip() for line in out.split("\n"))
    assert out == "" or (out.endswith("\n") and not out.endswith("\n\n"))
    return out


def test_the_canonical_form() -> None:
    assert check(UGLY) == TIDY


@pytest.mark.parametrize("name", SAMPLES)
def test_the_samples_keep_their_meaning(name: str) -> None:
    check(SAMPLES[name])
    assert check(SAMPLES[name].replace("\n", "\r\n")) == check(SAMPLES[name])


def test_an_empty_file_stays_empty() -> None:
    assert check("\n \n") == ""


def test_what_does_not_parse_is_not_formatted() -> None:
    with pytest.raises(PlanError) as caught:
        format_text("plan p {\n  a = = 1\n}\n", "t.plan")
    assert [d.code for d in caught.value.diagnostics] == ["E101"]
    assert "t.plan:2:7" in str(caught.value)


def test_same_tree_sees_differences() -> None:
    one = parse("plan p { a = 1, b = [x, y] }", "t")[0]
    assert same_tree(one, parse("plan p {\n a = 1\n b = [x,\n y]}", "u")[0])
    for other in ("plan p { a = 1.0, b = [x, y] }", "plan p { a = 1, b = [x] }", "plan p { a = 1, b = x }"):
        assert not same_tree(one, parse(other, "t")[0])


ITEMS = st.sampled_from(
    [
        "a = 1",
        "b=f (x,y = 2)@w[p,q]",
        "heads , ffn->tensor,seq",
        "mesh a=2,b = 4",
        "link{ bandwidth=64GB/s }",
        "in head {a -> b}",
        "require not a<=-b*3 %",
        "vary tp in [1,2,0 .. 4],b in 1..8 by*2",
        "block d [layers=0..3]x[t,h]{y = experts(h) { g @ w[a,b] }}",
        "head (a+\n  b)",
        "model = m with{ a=1\n\n\n b=2 # in\n }",
        "place a,b in node",
        "x.y",
    ]
)
ENDS = st.sampled_from(["\n", ";", " ;\n", "\n\n\n", " # note\n", "\n# own line\n", "\r\n", ";;\n", "\n , "])


@draws(25 / 2)
@given(st.lists(st.tuples(ITEMS, ENDS), max_size=8), st.sampled_from(["", "\n", " # first\n", "\n\n"]))
def test_any_plan_keeps_its_meaning(items: list[tuple[str, str]], start: str) -> None:
    check("plan p {" + start + "".join(item + end for item, end in items) + "}")


PIECES = st.sampled_from(["\n", "\n\n\n", " ", ",", ";", "# c\n", "  ", ""])


@draws(20 / 3)
@given(st.sampled_from(list(SAMPLES.values())), st.floats(0, 1), PIECES, st.integers(0, 2))
def test_a_changed_sample_keeps_its_meaning(sample: str, share: float, piece: str, size: int) -> None:
    at = int(share * len(sample))
    text = sample[:at] + piece + sample[at + size :]
    assume(not parse(text, "t")[1])
    check(text)
