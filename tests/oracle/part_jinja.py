r"""jinja.json: small templates, and what they give in the environment of transformers' `apply_chat_template`: jinja2's
ImmutableSandboxedEnvironment with trim_blocks, lstrip_blocks and loopcontrols.

Each case is a `template` and its `text`, null where there is an error instead. A template sees `DATA` beside what every chat
template sees. The clock stands at 26 July 2024, 12:00.
"""

import part_chat
from part_chat import LINE, engine

DATA = {
    "n": 7,
    "f": 2.5,
    "s": "Hello, wide World",
    "empty": "",
    "no": None,
    "yes": True,
    "ints": [3, 1, 2],
    "words": ["pear", "Apple", "fig", "apple"],
    "d": {"b": 1, "a": [1, 2, {"c": "x"}], "items": 5},
    "people": [
        {"name": "Ann", "age": 31, "home": {"city": "Rom"}},
        {"name": "bob", "age": 25, "home": {"city": "Ulm"}},
        {"name": "Cid", "age": 31},
    ],
    "tree": [{"v": 1, "kids": [{"v": 2, "kids": [{"v": 3, "kids": []}]}, {"v": 4, "kids": []}]}, {"v": 5, "kids": []}],
    "html": "<a href=\"x\">T&amp;T's</a>  <b>bold</b>\n<!-- no -->end",
    "lines": "one\n  two\n\nthree ",
    "uni": "Straße ÀÉ ǆ ﬁ Σας 🦊 e\u0301",
}

# One template a line; `}}|{{` parts several.
LINES = r"""
{{ 1 + 2 }}|{{ 7 // 2 }}|{{ -7 // 2 }}|{{ 7 // -2 }}|{{ -7 % 3 }}|{{ 7 % -3 }}|{{ 7 / 2 }}|{{ 2 ** 10 }}|{{ 2 ** -1 }}|{{ -2 ** 2 }}
{{ 7.5 // 2 }}|{{ -7.5 // 2 }}|{{ -7.5 % 2 }}|{{ 7.5 % -2 }}|{{ 1e3 }}|{{ 1.5e-7 }}|{{ 1e16 }}|{{ 123456789012345678.0 }}|{{ 0.1 + 0.2 }}|{{ 1e400 }}
{{ 2 ** 100 }}
{{ 3 - -3 }}|{{ +3 }}|{{ -f }}|{{ +f }}|{{ - - 3 }}|{{ not 1 }}|{{ not not 1 }}|{{ 5 - 3 - 1 }}|{{ 2 ** 3 ** 2 }}|{{ 1 - 2 * 3 }}
{{ 1_000 }}|{{ 0x1f }}|{{ 0b101 }}|{{ 0o17 }}|{{ 1_0.5 }}
{{ true }}|{{ True }}|{{ none }}|{{ None }}|{{ false + 1 }}|{{ true * 3 }}|{{ 1 == true }}|{{ "1" == 1 }}|{{ 1.0 == 1 }}
{{ "a" "b" 'c' }}|{{ "a" ~ 1 ~ none ~ true ~ 1.0 }}|{{ "a" * 3 }}|{{ 3 * "ab" }}|{{ [1] * 2 }}|{{ 2 * [1, 2] }}|{{ (1,) * 3 }}|{{ "a" * -1 }}
{{ "a" + "b" }}|{{ [1] + [2] }}|{{ (1,) + (2,) }}
{{ [1] + (2,) }}
{{ "a" + 1 }}
{{ "a" - "b" }}
{{ none + 1 }}
{{ 1 / 0 }}
{{ 1 % 0 }}
{{ 1.0 // 0 }}
{{ 1 < 2 < 3 }}|{{ 3 > 2 > 2 }}|{{ 1 != 2 }}|{{ "a" < "b" }}|{{ [1, 2] < [1, 3] }}|{{ (1,) < (2,) }}|{{ 1 <= 1.5 }}
{{ 1 < "a" }}
{{ none < 1 }}
{{ [] < {} }}
{{ missing < 1 }}
{{ 1 in ints }}|{{ 9 not in ints }}|{{ "b" in d }}|{{ "wide" in s }}|{{ "x" in missing }}|{{ not 1 in ints }}|{{ "" in "" }}
{{ 1 in "abc" }}
{{ 1 in 5 }}
{{ 1 in none }}
{{ none or "x" }}|{{ 0 and 1 }}|{{ "" or [] or 0 }}|{{ missing or 1 }}|{{ 1 and 2 or 3 }}|{{ "a" if n > 3 else "b" }}|{{ "a" if n < 3 }}|{{ ("a" if n < 3) is defined }}
{{ 1 if 0 else 2 if 0 else 3 }}|{{ (1, 2) }}|{{ (1,) }}|{{ () }}|{{ [] }}|{{ {} }}|{{ [1, "a", none, true, 1.0, [2]] }}|{{ {"a": 1, 2: [3], none: "x"} }}
{{ 1, 2 }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}|{% set (a, b) = (3, 4) %}{{ a }}{{ b }}|{% set x = 1, %}{{ x }}|{% set x = (1) %}{{ x }}
{% for a, (b, c) in [(1, (2, 3)), (4, (5, 6))] %}{{ a }}{{ b }}{{ c }} {% endfor %}
{% for x in 1, 2, 3 %}{{ x }}{% endfor %}
{% for a, b in [[1, 2, 3]] %}{{ a }}{% endfor %}
{% set a, b = 1 %}
{{ "it's" }}|{{ ["it's"] }}|{{ ['say "hi"'] }}|{{ ["it's \"x\""] }}|{{ ["a\nb\t\\"] }}|{{ ["é🦊\u200b\x00\x7f\xa0"] }}|{{ ["\u2028\ud7ff\uffff"] }}
{{ "\x41\u0042\103\t|\d\/\q" }}
{{ "\a\v\U0001F98A" }}
{{ 'a\
b' }}
{{ 1.0 }}|{{ 100000000000000000000.0 }}|{{ 1e22 }}|{{ 1e-5 }}|{{ 0.0001 }}|{{ -0.0 }}|{{ 3.14159265358979 }}|{{ 5e-324 }}|{{ [1e16, 1e15, 123456.789e3] }}
{{ (1e308 * 10) }}|{{ -(1e308 * 10) }}|{{ (1e308 * 10) - (1e308 * 10) }}
{{ missing }}|{{ missing.x is defined }}
{{ missing.x }}
{{ missing["x"] }}
{{ missing() }}
{{ missing + 1 }}
{{ d.nope }}|{{ d.nope is defined }}|{{ d["nope"] is undefined }}|{{ ints[9] }}|{{ s[99] }}|{{ ints.x }}|{{ n.x }}|{{ none.x }}
{{ d.nope.deeper }}
{{ no.x.y }}
{{ ints[0] }}|{{ ints[-1] }}|{{ s[0] }}|{{ s[-1] }}|{{ d["a"][2].c }}|{{ d.a.2.c }}|{{ ints["0"] }}|{{ d[no] }}|{{ ints[true] }}|{{ (1, 2)[1] }}
{{ ints[1.0] }}|{{ ints[none] }}|{{ d[[1]] }}
{{ s[:3] }}|{{ s[-3:] }}|{{ s[::2] }}|{{ s[::-1] }}|{{ s[5:1:-1] }}|{{ s[99:] }}|{{ ints[1:] }}|{{ ints[:-1] }}|{{ (1, 2, 3)[::2] }}|{{ s[no:3] }}|{{ "é🦊x"[1:] }}
{{ ints[::0] }}
{{ ints["a":] }}
{{ missing[1:] }}
{{ d[1:] }}|{{ n[1:] }}
{{ d.items }}
{{ d.items() }}|{{ d["items"] }}|{{ d.keys() }}|{{ d.values() }}|{{ {}.keys() }}|{{ d.items() | list }}|{{ d.keys() | list | join("+") }}|{{ d.values() | first }}|{{ d.get("b") }}|{{ d.get("x") }}|{{ d.get("x", 9) }}|{{ d.copy() == d }}
{{ d.items()[0] }}|{{ d.keys()[0] }}|{{ d.keys() | length }}|{{ "b" in d.keys() }}|{{ d.items() is sequence }}|{{ d.keys() is iterable }}|{{ d.keys() is string }}
{{ d.keys()[0].x }}
{{ d.keys() + [1] }}
{{ d.items() | tojson }}
{{ d.update({"x": 1}) }}
{{ ints.append(4) }}
{{ ints.pop() }}
{{ ints.sort() }}
{{ ints.append is defined }}|{{ ints.append }}|{{ d.update is defined }}
{{ ints.copy() }}|{{ ints.count(1) }}|{{ ints.index(2) }}|{{ (1, 2, 1).count(1) }}|{{ (1, 2).index(2) }}|{{ [1, true, 1.0].count(1) }}|{{ ints.index(2, 1) }}
{{ ints.index(9) }}
{{ s.upper() }}|{{ s.lower() }}|{{ s.title() }}|{{ s.capitalize() }}|{{ s.swapcase() }}|{{ s.casefold() }}|{{ uni.upper() }}|{{ uni.lower() }}|{{ uni.title() }}|{{ uni.swapcase() }}|{{ uni.casefold() }}|{{ uni.capitalize() }}
{{ "ΑΣ".lower() }}|{{ "ΑΣ Β".lower() }}|{{ "ǆx".capitalize() }}|{{ "ŉ".upper() }}|{{ "ﬁx".title() }}|{{ "x'y 3a-b_c".title() }}|{{ "İ".lower() | length }}
{{ " x ".strip() }}.|{{ " x ".lstrip() }}.|{{ " x ".rstrip() }}.|{{ "xxaxx".strip("x") }}|{{ "abcba".strip("ab") }}|{{ "\u00a0\u2003x\u200b".strip() }}.|{{ "\x1cx\x1f\x85".strip() }}.|{{ "x".strip(none) }}|{{ "x".strip("") }}
{{ "x".strip(1) }}
{{ "a,b,,c".split(",") }}|{{ "a,b,c".split(",", 1) }}|{{ "a,b,c".rsplit(",", 1) }}|{{ " a  b ".split() }}|{{ " a  b c ".split(none, 1) }}|{{ " a  b c ".rsplit(none, 1) }}|{{ "".split() }}|{{ "".split(",") }}|{{ "a b c".split(maxsplit=1) }}|{{ "a--b--c".split("--") }}|{{ "abc".split("abc") }}
{{ "a".split("") }}
{{ "a".split(1) }}
{{ "a\nb\r\nc\rd\x0be\u2028f".splitlines() }}|{{ "a\nb\n".splitlines(true) }}|{{ "".splitlines() }}|{{ "\n".splitlines() }}|{{ "a\n\nb".splitlines(keepends=true) }}
{{ "a=b=c".partition("=") }}|{{ "a=b=c".rpartition("=") }}|{{ "abc".partition("=") }}|{{ "abc".rpartition("=") }}
{{ "a".partition("") }}
{{ s.startswith("Hell") }}|{{ s.endswith(("x", "World")) }}|{{ s.startswith("wide", 7) }}|{{ s.endswith("wide", 0, 11) }}|{{ s.startswith("") }}|{{ s.startswith(()) }}
{{ s.startswith(["H"]) }}
{{ s.startswith(1) }}
{{ s.startswith(none) }}
{{ s.find("wide") }}|{{ s.find("x") }}|{{ s.rfind("o") }}|{{ s.index("W") }}|{{ s.find("l", 4) }}|{{ s.find("l", 4, 8) }}|{{ s.find("", 3) }}|{{ s.rindex("l") }}|{{ s.count("l") }}|{{ s.count("") }}|{{ s.count("l", 4) }}|{{ "é🦊x".find("x") }}|{{ s.find("o", -3) }}
{{ s.index("zzz") }}
{{ s.replace("l", "L") }}|{{ s.replace("l", "L", 1) }}|{{ "abc".replace("", "-") }}|{{ "abc".replace("", "-", 2) }}|{{ "aaa".replace("aa", "b") }}|{{ "a".replace("a", "b", -1) }}|{{ "".replace("", "x") }}
{{ s.replace("l") }}
{{ s.replace("l", 1) }}
{{ ",".join(words) }}|{{ ",".join("abc") }}|{{ "-".join([]) }}|{{ ",".join(d) }}
{{ ",".join([1, 2]) }}
{{ "5".zfill(3) }}|{{ "-5".zfill(4) }}|{{ "+5".zfill(4) }}|{{ "x".center(5, "*") }}|{{ "x".center(4) }}.|{{ "xy".center(5) }}.|{{ "x".ljust(3, ".") }}|{{ "x".rjust(3) }}|{{ "abc".ljust(1) }}
{{ "x".center(5, "ab") }}
{{ "x".ljust(3, "") }}
{{ "x".ljust() }}
{{ "ab1".isalnum() }}|{{ "ab".isalpha() }}|{{ "12".isdigit() }}|{{ "²".isdigit() }}|{{ "²".isdecimal() }}|{{ "½".isnumeric() }}|{{ "½".isdigit() }}|{{ "٣".isdecimal() }}|{{ " ".isspace() }}|{{ "".isspace() }}|{{ "aB".islower() }}|{{ "ab1".islower() }}|{{ "AB".isupper() }}|{{ "Ab Cd".istitle() }}|{{ "a b".isidentifier() }}|{{ "ab_1".isidentifier() }}|{{ "é".isascii() }}|{{ "a".isascii() }}|{{ "a\n".isprintable() }}|{{ "ª".islower() }}
{{ "prefix-x".removeprefix("prefix-") }}|{{ "x.py".removesuffix(".py") }}|{{ "x".removesuffix("") }}|{{ "a\tb\tc".expandtabs(4) }}|{{ "a\tb".expandtabs() }}
{{ "{} {}".format(1, "a") }}|{{ "{0}{1}{0}".format(1, 2) }}|{{ "{x}-{y}".format(x=1, y=2.0) }}|{{ "{{}}".format() }}|{{ "{!r}".format("a") }}|{{ "{!s}".format(none) }}|{{ "{a[b]}".format(a=d) }}
{{ "{:>5}|{:<5}|{:^5}|{:*^7}".format("a", "b", "c", "d") }}|{{ "{:5d}|{:05d}|{:+d}|{:,}|{:x}|{:#X}|{:b}|{:o}|{:c}".format(1, 2, 3, 1234567, 255, 255, 5, 8, 65) }}
{{ "{:.2f}|{:8.3f}|{:e}|{:.1e}|{:g}|{:g}|{:g}|{:%}|{:.1%}|{:,.2f}".format(3.14159, 2.5, 12345.678, 12345.678, 0.00001, 123456789.0, 1.5, 0.25, 0.256, 1234.5) }}
{{ "{:.3}|{:10.2}|".format("abcdef", "abc") }}|{{ "{:5}|{:<5}|{:>5}".format(1, 2, true) }}|{{ "{:_}".format(1234567) }}|{{ "{:d}".format(true) }}|{{ "{}".format([1, "a"]) }}|{{ "{:{w}}|".format("a", w=4) }}
{{ "{:d}".format("a") }}
{{ "{:.2f}".format("a") }}
{{ "{:z}".format(1) }}
{{ "{} {1}".format(1, 2) }}
{{ "{} {}".format(1) }}
{{ "{x}".format(1) }}
{{ "{".format(1) }}
{{ "{a.__class__}".format(a=1) }}
{{ "{x}".format_map({"x": 5}) }}
{{ "%s %d %5.2f|%-5s|%5s|%05d|%x|%X|%o|%e|%g|%r|%c|%%" % ("a", 3.9, 2.345, "b", "c", 42, 255, 255, 8, 12345.678, 0.0001, "q", "z") }}
{{ "%(a)s-%(b)03d" % {"a": 1, "b": 2} }}|{{ "%s" % 5 }}|{{ "%s" % [1, 2] }}|{{ "%s" % (1,) }}|{{ "%+d|% d|%#x|%#o" % (1, 2, 255, 8) }}|{{ "%.3s|%.1f|%5.1f|%-8.2e|" % ("abcdef", 0.25, 0.35, 1234.5) }}|{{ "%i %u" % (1, 2) }}|{{ "%a" % "é" }}|{{ "%*d" % (5, 3) }}|{{ "%G %E %F" % (1e-10, 1.5, 1.5) }}
{{ "%d" % "a" }}
{{ "%s %s" % (1,) }}
{{ "%s" % (1, 2) }}
{{ "%q" % 1 }}
{{ "%" % 1 }}
{{ "%x" % 1.5 }}
{{ "x" % () }}|{{ "x" % {} }}|{{ "x" % [] }}
{{ "x" % 1 }}
{{ "%s" | format("a") }}|{{ "%s %s" | format(1, 2) }}|{{ "%(x)s" | format(x=1) }}
{{ "%s" | format(1, x=2) }}
{{ -3 | abs }}|{{ (-3.5) | abs }}|{{ true | abs }}|{{ (-n) | abs }}
{{ "a" | abs }}
{{ people[0] | attr("name") }}|{{ "x" | attr("upper") is defined }}|{{ ("x" | attr("upper"))() }}|{{ ("x" | attr("nope")) is defined }}|{{ "x" | attr("__class__") is defined }}
{{ ("x" | attr("__class__")).y }}
{{ ints | batch(2) | list }}|{{ ints | batch(2, 0) | list }}|{{ range(7) | batch(3, "x") | list }}|{{ ints | slice(2) | list }}|{{ range(7) | slice(3) | list }}|{{ range(7) | slice(3, "x") | list }}
{{ "hELLO wORLD" | capitalize }}|{{ 5 | capitalize }}|{{ "x" | center(5) }}.|{{ "x" | center }}.|{{ "ab" | center(width=5) }}.
{{ words | count }}|{{ words | length }}|{{ s | length }}|{{ d | length }}|{{ missing | length }}|{{ () | length }}|{{ range(5) | length }}
{{ 5 | length }}
{{ none | length }}
{{ missing | default("x") }}|{{ missing | d }}|{{ no | default("x") }}|{{ no | default("x", true) }}|{{ empty | d("x", boolean=true) }}|{{ d.q | default({}) }}|{{ missing | default(default_value=3) }}
{{ d.q.r | default("x") }}
{{ d | dictsort }}|{{ {"b": 1, "A": 2, "a": 3} | dictsort }}|{{ {"b": 1, "A": 2, "a": 0} | dictsort(true) }}|{{ {"b": 1, "a": 2} | dictsort(by="value") }}|{{ {"b": 1, "a": 2} | dictsort(false, "value", true) }}|{{ {"b": 1, "a": 2} | dictsort(reverse=true) }}
{{ {"b": 1} | dictsort(by="x") }}
{{ {"b": 1, 2: 1} | dictsort }}
{{ html | e }}|{{ html | escape }}|{{ html | forceescape }}|{{ 5 | e }}|{{ none | e }}|{{ html | e | e }}|{{ html | safe | e }}|{{ html | e | length }}|{{ "<" | e ~ "<" }}|{{ ("<" | e) + "<" }}
{{ ("<" | e) is escaped }}|{{ "<" is escaped }}|{{ ("<" | safe) is escaped }}|{{ ("<" | e) | string is escaped }}|{{ ["<" | e] }}|{{ ("<b>" | safe) | upper }}|{{ ("%s" | safe) % "<" }}|{{ ("<" | safe) ~ "<" }}|{{ ["<", "a"] | join("<" | safe) }}|{{ ["<" | e, "<"] | join }}|{{ ("a" | safe).join(["<"]) }}|{{ ("<a>" | safe).replace("a", "<") }}|{{ ("<" | safe) * 2 }}|{{ ("{}" | safe).format("<") }}|{{ ("<" | e) | tojson }}|{{ ("a<" | safe)[0] is escaped }}|{{ ("<" | e) | e }}|{{ ("<" | e) | forceescape }}|{{ ("a b" | safe).split() }}|{{ ("<" | safe) is string }}
{{ 0 | filesizeformat }}|{{ 1 | filesizeformat }}|{{ 999 | filesizeformat }}|{{ 1000 | filesizeformat }}|{{ 1500000 | filesizeformat }}|{{ 1024 | filesizeformat(true) }}|{{ 5000000000 | filesizeformat(binary=true) }}|{{ "13000" | filesizeformat }}
{{ ints | first }}|{{ [] | first }}|{{ s | first }}|{{ d | first }}|{{ ints | last }}|{{ [] | last }}|{{ s | last }}|{{ ([] | first) is defined }}|{{ range(3) | last }}
{{ 5 | first }}
{{ d | last }}|{{ missing | first }}|{{ missing | last }}
{{ (ints | map("string")) | last }}
{{ "3.5" | float }}|{{ "x" | float }}|{{ "x" | float(1.5) }}|{{ 3 | float }}|{{ "1e3" | float }}|{{ " 2 " | float }}|{{ none | float }}|{{ true | float }}|{{ "inf" | float }}|{{ "nan" | float }}|{{ "1_0.5" | float }}|{{ [] | float }}
{{ "42" | int }}|{{ "42.9" | int }}|{{ 42.9 | int }}|{{ -42.9 | int }}|{{ "x" | int }}|{{ "x" | int(7) }}|{{ "ff" | int(0, 16) }}|{{ "0xff" | int(base=16) }}|{{ "0b11" | int(0, 2) }}|{{ " 12 " | int }}|{{ "1_000" | int }}|{{ none | int }}|{{ true | int }}|{{ [] | int }}|{{ "1e3" | int }}|{{ "٣" | int }}|{{ "0o17" | int(0, 8) }}|{{ "-5" | int }}|{{ "+5" | int }}
{{ ("in" ~ "f") | float | int }}
{{ people | groupby("age") | length }}|{% for age, group in people | groupby("age") %}{{ age }}:{{ group | map(attribute="name") | join(",") }};{% endfor %}|{% for g in people | groupby("home.city", default="?") %}{{ g.grouper }}={{ g.list | length }};{% endfor %}
{{ words | groupby(0) }}|{% for g in words | groupby("0") %}{{ g[0] }}{{ g.list }} {% endfor %}
{{ people | groupby("name", case_sensitive=true) | map("first") | list }}
{{ people | groupby("home.city") }}
{{ lines | indent }}|{{ lines | indent(2) }}|{{ lines | indent(2, true) }}|{{ lines | indent(2, blank=true) }}|{{ lines | indent("> ") }}|{{ lines | indent(width=1, first=true, blank=true) }}|{{ "" | indent(first=true) }}|{{ "a\n" | indent }}|{{ "a\r\nb" | indent }}|{{ "a\n\n" | indent(2, true, true) }}
{{ ints | indent }}
{{ missing | indent }}
{{ 5 | truncate }}
{{ [1, 2] | truncate(5) }}|{{ missing | truncate }}
{{ d in d }}
{{ d | items | list }}|{{ missing | items | list }}|{{ {} | items | list }}
{{ [1] | items | list }}
{{ "x" | items }}
{{ words | join }}|{{ words | join(", ") }}|{{ people | join(",", attribute="name") }}|{{ [1, none, true] | join("-") }}|{{ "abc" | join("-") }}|{{ d | join("-") }}|{{ [] | join(",") }}|{{ missing | join }}
{{ 5 | join }}
{{ "abc" | list }}|{{ d | list }}|{{ (1, 2) | list }}|{{ missing | list }}|{{ range(3) | list }}
{{ 5 | list }}
{{ none | list }}
{{ s | lower }}|{{ s | upper }}|{{ 5 | lower }}|{{ none | upper }}|{{ missing | lower }}
{{ people | map(attribute="name") | list }}|{{ people | map(attribute="home.city", default="?") | list }}|{{ people | map(attribute="home.city") | list }}|{{ words | map("upper") | list }}|{{ words | map("replace", "p", "P") | list }}|{{ ints | map("string") | join }}|{{ [[1, 2], [3]] | map("first") | list }}|{{ [[1, 2], [3, 4]] | map(attribute=1) | list }}|{{ [[1, 2], [3, 4]] | map(attribute="1") | list }}|{{ none | map("upper") | list }}
{{ words | map("nope") | list }}
{{ words | map | list }}
{{ words | map(attribute="x", foo=1) | list }}
{{ people | map(attribute="nope.deep") | list }}
{{ ints | max }}|{{ ints | min }}|{{ words | max }}|{{ words | min }}|{{ words | max(case_sensitive=true) }}|{{ words | min(true) }}|{{ people | max(attribute="age") }}|{{ people | min(attribute="name") }}|{{ [] | max }}|{{ ([] | min) is defined }}
{{ [1, "a"] | max }}
{{ ints | reject("odd") | list }}|{{ ints | reject("gt", 1) | list }}|{{ [0, 1, ""] | reject | list }}|{{ ints | select("odd") | list }}|{{ ints | select("greaterthan", 1) | list }}|{{ [0, 1, none, "a"] | select | list }}|{{ ints | select("in", [1, 3]) | list }}|{{ ints | select("divisibleby", 3) | list }}|{{ ["a", 1] | select("string") | list }}
{{ people | selectattr("home") | map(attribute="name") | list }}|{{ people | rejectattr("home") | map(attribute="name") | list }}|{{ people | selectattr("age", "gt", 30) | map(attribute="name") | list }}|{{ people | selectattr("home.city", "equalto", "Rom") | list | length }}|{{ people | selectattr("home", "defined") | list | length }}|{{ people | rejectattr("age", "==", 31) | map(attribute="name") | list }}|{{ people | selectattr("name", "in", ["Cid"]) | list | length }}
{{ people | selectattr | list }}
{{ people | selectattr("age", "nope") | list }}
{{ ints | select("nope") }}
{{ people | selectattr("home.city.x", "defined") | list }}
{{ people | selectattr("nope.deep") | list }}
{{ s | replace("l", "L") }}|{{ s | replace("l", "L", 1) }}|{{ s | replace("l", "L", count=2) }}|{{ 1215 | replace("1", "x") }}|{{ "a" | replace("a", 5) }}|{{ s | replace(old="l", new="") }}
{{ "a" | replace(1, 5) }}|{{ "a1" | replace(1, "x") }}
{{ s | reverse }}|{{ ints | reverse | list }}|{{ ints | reverse }}|{{ (1, 2) | reverse | list }}|{{ d | reverse | list }}
{{ 5 | reverse }}
{{ 2.5 | round }}|{{ 3.5 | round }}|{{ 2.675 | round(2) }}|{{ 42.55 | round(1) }}|{{ 42.55 | round(1, "floor") }}|{{ 42.51 | round(1, "ceil") }}|{{ 42 | round }}|{{ 1234 | round(-2) }}|{{ 1250 | round(-2) }}|{{ 0.5 | round }}|{{ 1.005 | round(2) }}|{{ -2.5 | round }}|{{ 42.1 | round(method="ceil") }}|{{ 2.5 | round | int }}|{{ true | round }}|{{ 1e300 | round(2) }}|{{ 0.285 | round(2) }}|{{ 1.45 | round(1) }}
{{ 1 | round(0, "x") }}
{{ "1.5" | round }}
{{ [3, 1, 2] | sort }}|{{ words | sort }}|{{ words | sort(case_sensitive=true) }}|{{ words | sort(reverse=true) }}|{{ people | sort(attribute="age") | map(attribute="name") | list }}|{{ people | sort(attribute="age,name") | map(attribute="name") | list }}|{{ people | sort(true, attribute="name") | map(attribute="name") | list }}|{{ "hello" | sort }}|{{ d | sort }}|{{ [[2, 1], [1, 2]] | sort(attribute=1) }}|{{ [true, 0.5, 2] | sort }}|{{ people | sort(attribute="age", reverse=true) | map(attribute="name") | list }}
{{ [1, "a"] | sort }}
{{ [none, 1] | sort }}
{{ people | sort }}
{{ people | sort(attribute="home") }}
{{ 5 | string }}|{{ none | string }}|{{ [1, "a"] | string }}|{{ 1.0 | string }}|{{ missing | string }}|{{ true | string }}|{{ "x" | string }}|{{ d | string }}
{{ ints | sum }}|{{ people | sum(attribute="age") }}|{{ ints | sum(start=10) }}|{{ [0.1, 0.2] | sum }}|{{ [] | sum }}|{{ [[1], [2]] | sum(start=[]) }}|{{ people | sum("age", 1) }}
{{ ["a"] | sum }}
{{ "hello wORLD" | title }}|{{ "it's o'clock" | title }}|{{ "a-b (c) [d] {e} <f>" | title }}|{{ 5 | title }}|{{ "x\ty\u00a0z" | title }}|{{ "ﬁx ǆ" | title }}
{{ d | tojson }}|{{ d | tojson(indent=2) }}|{{ "é<>&'\u2028" | tojson }}|{{ "é🦊" | tojson(ensure_ascii=true) }}|{{ d | tojson(sort_keys=true) }}|{{ d | tojson(separators=(",", ":")) }}|{{ d | tojson(separators=[";", "="]) }}|{{ d | tojson(false, 1) }}|{{ [] | tojson(indent=2) }}|{{ {} | tojson(indent=2) }}|{{ [[], {}] | tojson(indent="\t") }}|{{ d | tojson(indent=0) }}
{{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }}|{{ (1, 2) | tojson }}|{{ none | tojson }}|{{ 1e16 | tojson }}|{{ 1.0 | tojson }}|{{ (1e308 * 10) | tojson }}|{{ "\x00\x1f\x7f\"\\/\b\f" | tojson }}|{{ 2 ** 70 | tojson }}|{{ {"b": {"z": 1, "a": 2}} | tojson(sort_keys=true, indent=1) }}|{{ d | tojson(indent=-1) }}|{{ d | tojson(none, none, none, none) }}|{{ [1, [2]] | tojson(indent=true) }}
{{ missing | tojson }}
{{ {(1, 2): 3} | tojson }}
{{ d | tojson(foo=1) }}
{{ range(3) | tojson }}
{{ (ints | map("string")) | tojson }}
{{ {"b": 1, 2: 3} | tojson(sort_keys=true) }}
{{ 1 | tojson(separators=",") }}|{{ [1, 2] | tojson(separators=",") }}
{{ " x " | trim }}.|{{ "xxaxx" | trim("x") }}|{{ 5 | trim }}|{{ "\n\tx\u3000" | trim }}.|{{ "x" | trim(chars=none) }}|{{ none | trim }}|{{ missing | trim }}.
{{ "foo bar baz qux" | truncate(9) }}|{{ "foo bar baz qux" | truncate(9, true) }}|{{ "foo bar baz qux" | truncate(11) }}|{{ "foo bar baz qux" | truncate(11, false, "…") }}|{{ "foo bar baz qux" | truncate(9, true, "", 0) }}|{{ "foo" | truncate }}|{{ "foobarbaz" | truncate(5, leeway=0) }}|{{ "foo bar baz" | truncate(length=7, end="", leeway=0) }}
{{ "abc" | truncate(2) }}
{{ ["b", "A", "a", "B"] | unique | list }}|{{ ["b", "A", "a"] | unique(true) | list }}|{{ people | unique(attribute="age") | map(attribute="name") | list }}|{{ [1, true, 1.0, 2] | unique | list }}|{{ "aAb" | unique | join }}
{{ [[1], [1]] | unique | list }}
{{ "a b/ü?&=+~" | urlencode }}|{{ {"a": 1, "b c": "ü&"} | urlencode }}|{{ [("x", 1), ("y", "z w")] | urlencode }}|{{ 5 | urlencode }}|{{ "/a b" | urlencode }}
{{ "one two  three-four 5 it's" | wordcount }}|{{ "" | wordcount }}|{{ 5 | wordcount }}
{{ "one two three four" | wordwrap(9) }}|{{ "abcdefghijkl mn" | wordwrap(5) }}|{{ "abcdefghijkl mn" | wordwrap(5, false) }}|{{ "a b c d" | wordwrap(3, wrapstring="|") }}|{{ "a\n\nb c" | wordwrap(2) }}|{{ "well-known fact" | wordwrap(6) }}|{{ "well-known fact" | wordwrap(6, true, none, false) }}|{{ "  lead  x" | wordwrap(6) }}|{{ s | wordwrap }}
{{ "a" | wordwrap(0) }}
{{ "x" | nope }}
{{ "x" | upper | nope }}
{% if false %}{{ "x" | nope }}{% endif %}ok
{{ "x" | upper("y") }}
{{ "x" | replace("y") }}
{{ "x" | default("a", b=1) }}
{{ 3 is odd }}|{{ 3 is even }}|{{ 3 is not odd }}|{{ 6 is divisibleby 3 }}|{{ 6 is divisibleby(4) }}|{{ 2.0 is even }}|{{ true is odd }}|{{ -3 is odd }}
{{ "a" is odd }}
{{ 6 is divisibleby 0 }}
{{ x is defined }}|{{ n is defined }}|{{ n is undefined }}|{{ no is none }}|{{ no is not none }}|{{ missing is none }}|{{ yes is boolean }}|{{ 1 is boolean }}|{{ yes is true }}|{{ 1 is true }}|{{ false is false }}|{{ 0 is false }}
{{ 1 is integer }}|{{ true is integer }}|{{ 1.0 is integer }}|{{ 1.0 is float }}|{{ 1 is float }}|{{ 1 is number }}|{{ true is number }}|{{ "1" is number }}|{{ "a" is string }}|{{ 1 is string }}
{{ "ab" is lower }}|{{ "Ab" is lower }}|{{ "AB" is upper }}|{{ "1" is lower }}|{{ 5 is upper }}
{{ d is mapping }}|{{ ints is mapping }}|{{ d is sequence }}|{{ "s" is sequence }}|{{ 5 is sequence }}|{{ (1,) is sequence }}|{{ range(2) is sequence }}|{{ none is sequence }}|{{ missing is sequence }}|{{ 5 is iterable }}|{{ d is iterable }}|{{ (ints | map("string")) is iterable }}|{{ (ints | map("string")) is sequence }}|{{ none is iterable }}
{{ range is callable }}|{{ n is callable }}|{{ s.upper is callable }}|{% macro m() %}{% endmacro %}{{ m is callable }}|{{ missing is callable }}|{{ dict is callable }}|{{ namespace is callable }}|{{ cycler is callable }}
{{ 1 is sameas 1 }}|{{ true is sameas true }}|{{ 1 is sameas true }}|{{ no is sameas none }}|{{ ints is sameas ints }}|{{ [] is sameas [] }}|{{ d is sameas d }}
{{ 1 is in [1] }}|{{ 1 is in ints }}|{{ "a" is in "abc" }}|{{ 5 is not in ints }}
{{ 1 is eq 1 }}|{{ 1 is equalto 2 }}|{{ 1 is == 1 }}
{{ 1 is ne 2 }}|{{ 1 is lt 2 }}|{{ 2 is le 2 }}|{{ 3 is gt 2 }}|{{ 3 is ge 4 }}|{{ 1 is lessthan 2 }}|{{ 1 is greaterthan(0) }}
{{ "upper" is filter }}|{{ "nope" is filter }}|{{ "odd" is test }}|{{ "nope" is test }}|{{ "tojson" is filter }}|{{ "==" is test }}|{{ 5 is filter }}
{{ 1 is nope }}
{{ 1 is odd and 2 is even }}|{{ 1 is odd or missing.x }}|{{ not 1 is odd }}|{{ 1 is defined and n }}
{% for x in ints %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }} {% endfor %}
{% for x in ints %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}|{% for x in ints %}{{ loop.previtem is defined }}{{ loop.nextitem is undefined }}{% endfor %}
{% for x in [1, 1, 2, 2, 1] %}{{ loop.changed(x) }}{% endfor %}|{% for x in [1, 2] %}{{ loop.changed() }}{% endfor %}|{% for x in [1, 2, 2] %}{{ "c" if loop.changed(x, 5) }}{% endfor %}
{% for x in range(5) %}{{ loop.cycle("a", "b", "c") }}{% endfor %}
{% for x in [1] %}{{ loop.cycle() }}{% endfor %}
{% for x in ints %}{% for y in [1] %}{{ loop.depth }}{{ loop.depth0 }}{% endfor %}{% endfor %}
{% set g = ints | map("string") %}{{ g | first }}{{ g | list }}|{% set g = ints | map("string") %}{{ "1" in g }}{{ g | list }}
{{ ("<b>" | safe) + "<i>" }}|{{ "<i>" + ("<b>" | safe) }}|{% set x = {"a": "<"} | tojson | safe %}{{ "<tool>" + x + "</tool>" }}|{{ x ~ "<" }}
{% for x in ints %}{{ loop }}{% endfor %}
{{ loop is defined }}|{{ loop }}
{% for x in [] %}x{% else %}none{% endfor %}|{% for x in missing %}x{% else %}none{% endfor %}|{% for x in ints if x > 5 %}x{% else %}none{% endfor %}|{% for x in ints if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% endfor %}
{% for x in 5 %}{% endfor %}
{% for x in none %}{% endfor %}
{% for x in ints %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}|{% for x in ints %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% else %}e{% endfor %}|{% for x in ints %}{% for y in ints %}{% if y == 1 %}{% break %}{% endif %}{{ x }}{{ y }}{% endfor %}{{ loop.depth }}{% endfor %}
{% break %}
{% for n in tree recursive %}{{ n.v }}({{ loop(n.kids) }}){{ loop.depth }}{% endfor %}
{% for n in tree recursive %}{{ n.v }}{% if n.kids %}[{{ loop(n.kids) }}]{% endif %}{% if not loop.last %},{% endif %}{% endfor %}
{% for n in tree recursive %}{{ loop.depth0 }}{{ loop.index }}{{ loop(n.kids) }}{% else %}-{% endfor %}
{% for n in tree recursive if n.v > 1 %}{{ n.v }}{% endfor %}
{% for n in tree if n.v > 1 recursive %}{{ n.v }}{{ loop(n.kids) }}{% endfor %}
{% for x in ints %}{{ loop(ints) }}{% endfor %}
{% for x in tree recursive %}{% for y in ints %}{{ loop(x.kids) }}{% endfor %}{% endfor %}
{% set x = 1 %}{% for a in ints %}{% set x = a %}{% endfor %}{{ x }}|{% if true %}{% set x = 5 %}{% endif %}{{ x }}|{% with %}{% set x = 9 %}{{ x }}{% endwith %}{{ x }}
{% set ns = namespace(x=0, y=[]) %}{% for a in ints %}{% set ns.x = ns.x + a %}{% endfor %}{{ ns.x }}|{{ ns.y }}|{{ ns.z }}|{{ ns.z is defined }}|{% set ns.z = 5 %}{{ ns.z }}|{{ ns["x"] }}
{{ namespace(a=1) }}|{{ namespace({"a": 1}).a }}|{{ namespace([("b", 2)]).b }}|{{ namespace(self=1).self }}
{% set ns = namespace(_a=1) %}
{% set ns = namespace() %}{% set ns._a = 1 %}
{% set d.x = 1 %}
{% set x.y = 1 %}
{% set ns = namespace() %}{% set ns.a, ns.b = 1, 2 %}{{ ns.a }}{{ ns.b }}
{% set x %}a{{ n }}b{% endset %}{{ x }}|{% set x | upper %}abc{% endset %}{{ x }}|{% set x | replace("a", "b") | title %}aaa{% endset %}{{ x }}|{% set ns = namespace() %}{% set ns.x %}q{% endset %}{{ ns.x }}|{{ x is escaped }}|{{ x is string }}
{% filter upper %}a{{ n }}b{% endfilter %}|{% filter replace("a", "b") | indent(2, true) %}aa{% endfilter %}
{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}|{% with a = 1 %}{% with b = a %}{{ b }}{% endwith %}{% endwith %}|{% set a = 5 %}{% with a = 1, b = a %}{{ b }}{% endwith %}
{% macro f(a, b="B", c=a) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(1, c=3) }}{{ f(b=1, a=2) }}{{ f() }}
{% macro f(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, 3, x=4) }}|{{ f.name }}|{{ f.arguments }}|{{ f.catch_varargs }}|{{ f.catch_kwargs }}|{{ f.caller }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, b=2) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, a=2) }}
{% macro f(a, a2=[]) %}{{ a is defined }}{{ a2 }}{% endmacro %}{{ f() }}
{% macro f() %}({{ caller() }}){% endmacro %}{% call f() %}in{{ n }}{% endcall %}|{% macro g(x) %}{{ caller(x, x * 2) }}{% endmacro %}{% call(a, b) g(3) %}{{ a }}-{{ b }}{% endcall %}
{% macro f() %}x{% endmacro %}{% call f() %}in{% endcall %}
{% macro f() %}{{ caller() }}{% endmacro %}{{ f() }}
{% macro f() %}{{ caller is defined }}{% if caller %}y{% endif %}{% endmacro %}{{ f() }}{% call f() %}{% endcall %}
{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}
{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}
{% set v = 1 %}{% macro f() %}{{ v }}{% endmacro %}{% set v = 2 %}{{ f() }}|{% for v in [8] %}{{ f() }}{% endfor %}
{% for i in [1, 2] %}{% macro f() %}{{ i }}{% endmacro %}{{ f() }}{% endfor %}
{% macro f(x) %}{% set y = x %}{{ y }}{% endmacro %}{{ f(1) }}{{ y }}|{{ f("<") is escaped }}|{{ f(1) is string }}|{{ f(2) | int + 1 }}|{{ f("a") ~ "b" }}|{{ f("a").upper() }}
{% macro outer() %}{% macro inner() %}i{% endmacro %}{{ inner() }}{% endmacro %}{{ outer() }}|{{ inner is defined }}
{{ range(3) }}|{{ range(1, 4) | list }}|{{ range(5, 0, -2) | list }}|{{ range(0) | list }}|{{ range(3)[1] }}|{{ range(3) | length }}|{{ 2 in range(3) }}|{{ range(10)[2:4] }}|{{ range(3) == range(3) }}|{{ range(5, 1) | list }}
{{ range(100001) }}
{{ range("a") }}
{{ range(1.5) }}
{{ range(1, 2, 0) }}
{{ range() }}
{{ dict(a=1, b=2) }}|{{ dict([("x", 1)]) }}|{{ dict({"a": 1}, b=2) }}|{{ dict() }}|{{ dict.fromkeys(["a", "b"], 0) }}|{{ dict(a=1) == {"a": 1} }}
{{ dict(1) }}
{{ dict([1]) }}
{% set c = cycler("a", "b") %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.next() }}
{{ cycler() }}
{% set j = joiner(", ") %}{{ j() }}a{{ j() }}b{{ j() }}|{% set k = joiner() %}{{ k() }}{{ k() }}
{{ strftime_now("%Y-%m-%d %H:%M:%S") }}|{{ strftime_now("%d %b %Y") }}|{{ strftime_now("%A %a %B %b %y %j %I %p %w %u %U %W %V %G %C %e %D %F %T %R %n%t%% %h %M %Z%z.%f") }}|{{ strftime_now("%-d/%-m %c | %x | %X | %r") }}|{{ strftime_now("é%Yü") }}|{{ strftime_now("") }}|{{ strftime_now("%g %k %l %s") }}
{{ strftime_now() }}
{{ raise_exception("no") }}
{{ raise_exception() }}
{% if false %}{{ raise_exception("no") }}{% endif %}fine
{{ messages }}|{{ messages | length }}|{{ messages[0].role }}|{{ bos_token }}|{{ tools }}|{{ documents }}|{{ add_generation_prompt }}
{% if n %}a{% elif f %}b{% else %}c{% endif %}|{% if no %}a{% elif empty %}b{% else %}c{% endif %}|{% if missing %}a{% endif %}|{% if n == 7 and s %}y{% endif %}|{% if n is defined and n > 3 %}z{% endif %}
{% if missing.x %}{% endif %}
{% generation %}a{{ n }}{% endgeneration %}|{%- generation -%} b {%- endgeneration -%}|{% generation %}{% set q = 1 %}{% endgeneration %}{{ q }}
{% generation %}
{% for x in ints %}{% generation %}{{ x }}{{ loop.index }}{% endgeneration %}{% endfor %}
{% raw %}{{ x }}{% y %}{# z #}{% endraw %}|{%- raw -%} a {%- endraw -%} b|{# comment #}c{#- d -#} e
{{ "{% generation %}" }}|{% raw %}{% generation %}{% endraw %}|{# {% generation %} #}
{% include "x" %}
{% include "x" ignore missing %}
{% import "x" as y %}
{% from "x" import y %}
{% extends "x" %}
{% block b %}x{% endblock b %}y
{% block b %}{{ super() }}{% endblock %}
{% do 1 %}
{% do ints.append(1) %}
{% nope %}
{% endif %}
{% if true %}
{% for %}
{{ }}
{{ 1 + }}
{{ (1 }}
{{ "a }}
{# a
{% raw %}a
{{ 1 1 }}
{{ a b }}
{{ a.1x }}
{% set 1 = 2 %}
{% set true = 1 %}
{% for loop in ints %}{% endfor %}
{% if true %}x{% endfor %}
{% autoescape false %}{{ "<" }}{{ "<" | e }}{% endautoescape %}
{% trans %}x{% endtrans %}
{% debug %}
{{ ''.__class__ }}
{{ ''.__class__.__mro__ }}
{{ ''["__class__"] is defined }}
{{ d.__len__ is defined }}|{{ s._x is defined }}
{{ d.__len__() }}
{{ range.__globals__ }}
{{ cycler.__init__.__globals__ }}
{{ n() }}
{{ s() }}
{{ s.upper(1) }}
{{ s.upper(x=1) }}
{{ s.upper }}
{{ s.nope() }}
{{ d.b() }}
{{ "x".format }}
{{ range }}
{{ dict }}
{{ [1, 2] == (1, 2) }}|{{ {"a": 1} == {"a": 1.0} }}|{{ "a" == missing }}|{{ missing == missing }}|{{ none == missing }}|{{ missing != 1 }}|{{ ints == [3, 1, 2] }}|{{ 1 == 1 == 1 }}
{{ {"a": 1, "a": 2} }}|{{ {1: "a", 1.0: "b", true: "c"} }}|{{ {"x": 1}.x }}|{{ {"a": {"b": 1}}.a.b }}
{{ {[1]: 2} }}
{{ {{}: 2} }}
{{ [x * 2 for x in ints] }}
{{ f"{n}" }}
{{ n if n }}|{{ n is defined if n }}|{{ [n, n if false] }}
{{ "a" if no else "b" ~ "c" }}|{{ 1 + 1 if true else 5 }}|{{ -1 if false else -2 }}
{{ n|string|length + 1 }}|{{ -n|abs }}|{{ n ~ n|string }}|{{ 2 * n|float }}|{{ not n|int }}|{{ "a,b"|replace(",", "-")|upper }}
{{ (ints | map("string") | list) + ["x"] }}|{{ ints | map("string") }}
{{ (ints | select) | first }}|{{ (ints | select) | length }}
{{ (ints | select) and 1 }}|{{ ([] | select) and 1 }}|{{ 1 if ([] | map("string")) else 0 }}|{{ (ints | map("string")) is string }}
{% set g = ints | map("string") %}{{ g | list }}{{ g | list }}
{% for x in ints | map("string") %}{{ x }}{{ loop.last }}{{ loop.length }}{% endfor %}
{{ (d.items() | list)[0][1] }}|{{ (d.values() | list)[0] }}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}|{% for k in d %}{{ k }}{% endfor %}|{% for k, v in d | dictsort %}{{ k }}{% endfor %}|{% for c in "añ" %}{{ c }}.{% endfor %}
{% for k, v in d %}{% endfor %}
{{ func(**{"a": 1}) }}
{{ dict(**{"a": 1}) }}|{{ range(*[1, 3]) | list }}|{{ "{}{}{x}".format(*[1, 2], **{"x": 3}) }}|{{ dict(a=1, **{"b": 2}) }}
{{ dict(a=1, **{"a": 2}) }}
{{ dict(a=1, a=2) }}
{{ range(x=1) }}
{{ s.split(sep=" ") }}
{{ s.split(" ", maxsplit=1) }}|{{ s.rsplit(sep="o", maxsplit=1) }}|{{ s.splitlines(keepends=false) }}
{{ "a".__add__("b") }}
{{ "" ~ missing ~ no }}|{{ missing ~ "a" }}|{{ [missing] }}|{{ {"a": missing} }}|{{ (missing, 1) }}
{{ missing | upper }}|{{ missing | int }}|{{ missing | float }}|{{ missing | join(",") }}|{{ missing | list }}|{{ missing | replace("a", "b") }}|{{ missing | sort }}|{{ missing | e }}|{{ missing | title }}|{{ missing | first is defined }}
{{ missing | abs }}
{{ missing | round }}
{{ missing | items }}
{{ missing | dictsort }}
{{ missing | map("upper") | list }}|{{ missing | selectattr("x") | list }}|{{ missing | sum }}|{{ missing | unique | list }}|{{ missing | reverse | list }}
{{ missing is string }}|{{ missing is mapping }}|{{ missing is number }}|{{ missing is iterable }}|{{ missing is true }}|{{ missing is false }}|{{ missing is lower }}|{{ missing is callable }}
{{ missing is odd }}
{{ -missing }}
{{ missing * 2 }}
{{ missing in [1] }}|{{ 1 in missing }}|{{ missing not in "x" }}
{{ missing in "x" }}
{{ missing is eq missing }}|{{ missing is sameas missing }}|{{ missing is in [1] }}
{{ "a" in ["a" | safe] }}|{{ "A" | lower in ["a"] }}|{{ 1 in {"a": 1}.values() }}|{{ ("a", 1) in {"a": 1}.items() }}
{{ uni | upper }}|{{ uni | lower }}|{{ uni | title }}|{{ uni | length }}|{{ uni | reverse }}|{{ uni[::-1] }}|{{ uni | capitalize }}|{{ uni | tojson }}|{{ [uni] }}|{{ uni | wordcount }}|{{ uni | urlencode }}
{{ "a" < "B" }}|{{ "é" > "z" }}|{{ "🦊" > "\uffff" }}|{{ "" < "a" }}|{{ "a" >= "a" }}|{{ [1, "a"] == [1, "a"] }}|{{ (1, 2) <= (1, 2, 3) }}|{{ true < 2 }}|{{ [2] > [1, 9] }}
{{ 5 // 2 * 2 + 5 % 2 }}|{{ 2 + 3 ~ 4 * 2 }}|{{ 1 ~ 2 + 3 }}|{{ "a" ~ 1 + 2 }}|{{ 10 - 2 ~ 1 }}
{{ not n == 7 }}|{{ n == 7 and not s == "x" }}|{{ 1 in [1] == true }}|{{ (1 in [1]) == true }}|{{ not (1 and 0) }}|{{ 1 if n == 7 and "x" in "xyz" else 2 }}
{{ 9007199254740993 }}|{{ 9007199254740993 + 0.0 }}|{{ 12345678901234567890123 }}|{{ 2 ** 63 }}|{{ -(2 ** 63) - 1 }}|{{ 2 ** 64 // 3 }}|{{ (2 ** 64) % 1000 }}|{{ (2 ** 70) | string | length }}
{{ 1e3 | int }}|{{ 1e20 | int }}|{{ 7 | float / 2 }}|{{ "7" | int + 1 }}|{{ 3.0 * 2 }}|{{ 7 - 0.5 }}|{{ 1 / 3 }}|{{ 2 / 3 }}|{{ 100 / 3 }}|{{ 1e15 / 3 }}|{{ 6 / 2 }}|{{ 2 ** 0.5 }}|{{ 8 ** -1.0 }}|{{ 0.1 * 3 }}|{{ 1.1 % 0.2 }}|{{ 0 ** 0 }}
{{ 0 ** -1 }}
{{ {"a": 1} | xmlattr }}|{{ {"a": 1} | xmlattr(false) }}|{{ {} | xmlattr }}|{{ {"a": none, "b": missing} | xmlattr }}|{{ {"a": "<'\"&>", "b": html | safe, "<&": 2.5} | xmlattr }}|{{ {"a": true, "b": [1, "x"], "c": ""} | xmlattr(autospace=true) }}|{{ {"a\u00a0b": 1} | xmlattr }}|{{ {"a" | safe: "<" | e} | xmlattr is escaped }}|{{ d | xmlattr }}
{{ {"a b": 1} | xmlattr }}
{{ {"a/": 1} | xmlattr }}
{{ {"a=": 1} | xmlattr }}
{{ {"a>": 1} | xmlattr }}
{{ {"a\x0b": 1} | xmlattr }}
{{ {"a b": none} | xmlattr }}
{{ {1: 1} | xmlattr }}
{{ {1: none} | xmlattr }}
{{ [["a", 1]] | xmlattr }}
{{ missing | xmlattr }}
{{ d | xmlattr(1, 2) }}
{{ d | pprint }}|{{ people | pprint }}|{{ tree | pprint }}|{{ html | pprint }}|{{ uni | pprint }}|{{ 5 | pprint }}|{{ none | pprint }}|{{ missing | pprint }}|{{ 1e16 | pprint }}|{{ (html | safe) | pprint }}|{{ "" | pprint }}|{{ d.items() | pprint }}|{{ range(3) | pprint }}|{{ namespace(b=1, a=2) | pprint }}
{{ {"b": 1, "a": {"d": 2, "c": 3}} | pprint }}|{{ {2: 1, "x": 2, none: 3, 1.5: 4, true: 5, (1, 2): 6} | pprint }}|{{ [{"b": {"z": 1, "y": 2}}, ({"b": 1, "a": 2},)] | pprint }}|{{ {"b": 1, "a": 2}.items() | pprint }}|{{ {"b": {"z": 1, "y": 2}.values()} | pprint }}
{{ range(60) | list | pprint }}|{{ (range(30) | list, "x") | pprint }}|{{ ("word " * 30,) | pprint }}|{{ [("word " * 30)] | pprint }}|{{ ["a" * 75] | pprint }}|{{ ["a" * 76] | pprint }}|{{ ["a" * 77] | pprint }}|{{ ("a" * 75,) | pprint }}|{{ ("a" * 76,) | pprint }}
{{ "word " * 15 | pprint }}|{{ ("word " * 15) | pprint }}|{{ ("word " * 16) | pprint }}|{{ ("word " * 40) | pprint }}|{{ ("a" * 77) | pprint }}|{{ ("a" * 78) | pprint }}|{{ ("a" * 79) | pprint }}|{{ ("a" * 200) | pprint }}|{{ ("a" * 200 + " b") | pprint }}|{{ (lines * 6) | pprint }}|{{ ("\n" * 50) | pprint }}|{{ ("it's " * 20) | pprint }}|{{ ("é🦊 " * 40) | pprint }}|{{ ("\u3000x" * 40) | pprint }}|{{ ("a\r\nb\x0cc\u2028" * 20) | pprint }}
{{ {"key": "word " * 40} | pprint }}|{{ {"key": "word " * 40, "other": 1} | pprint }}|{{ {"k" * 70: "word " * 5} | pprint }}|{{ {"k" * 90: "word word"} | pprint }}|{{ {"k" * 90: [1, 2]} | pprint }}|{{ {"a": {"b": {"c": range(40) | list}}} | pprint }}|{{ {("word " * 20): 1, "b": [2]} | pprint }}|{{ [[["x" * 60, "y" * 30]], []] | pprint }}|{{ [people, people] | pprint }}|{{ {"a": [tree, tree], "z": {}} | pprint }}|{{ [(("word " * 20) | safe)] | pprint }}|{{ [people[0].items(), range(9), "x" * 70] | pprint }}
{{ messages | pprint }}|{{ {"n": people} | pprint | length }}|{{ d | pprint is escaped }}
{{ d | pprint(1) }}
"""

# Here jinja2 has a text and we have an error: whole numbers of more than 127 bits, complex numbers and bytes; what is for web
# pages or debugging; what gives another text each time; names and forms that no chat template was seen to use.
REFUSED = r"""
{{ 10 ** 40 }}
{{ 123456789012345678901234567890123456789012 }}
{{ (-8) ** 0.5 }}
{{ s.encode() }}
{{ s.translate({97: "x"}) }}
{{ n.bit_length() }}
{{ f.is_integer() }}
{{ ints | random }}
{{ lipsum() }}
{{ html | striptags }}
{{ s | urlize }}
{% autoescape true %}{{ "<" }}{% endautoescape %}
{% with a, b = (1, 2) %}{{ a }}{% endwith %}
{% set loop = 1 %}{{ loop }}
{% block b %}x{% endblock %}{{ self.b() }}
{{ "{:010,}".format(1234) }}
{{ "%.2000f" % 1 }}
"""

# White space around tags, and other texts of several lines.
BLOCKS = [
    "a\n  {% if n %}  \n  b\n  {% endif %}  \nc\n",
    "a  {%- if n -%}  \n  b  {%- endif -%}  \nc\n\n",
    "  {{ n }}  \n  {{- n -}}  \n  x\n",
    "a\n{# c #}\nb {# d #} e\n  {# f #}  \ng",
    "a\n  {#- c -#}\n  b",
    "{% for x in ints %}\n  {{ x }}\n{% endfor %}\n",
    "{% for x in ints -%}\n  {{ x }}\n{%- endfor %}\n",
    "  {%+ if n %}a{%+ endif %}  b\n",
    "x\n  {%- set a = 1 %}\n  {{ a }}\n  {%- set b = 2 -%}\n  {{ b }}",
    "a {% raw -%}  b  {%- endraw %} c",
    "a\r\n{% if n %}\r\nb\r\n{% endif %}\r\nc\r\n",
    "a\r{% if n %}\rb{% endif %}\r",
    "\n\n{{ n }}\n\n",
    "{{ n }}\n",
    "{{ n }}\n\n",
    "\n",
    "",
    "a\tb\n\t{% if n %}\n\tc\n\t{% endif %}\nd",
    "{% if n %}\u00a0\nx{% endif %}",
    "x \u00a0{%- if n %}y{% endif %}",
    "x\u3000{{- n -}}\u2003y",
    "{% set x %}\n  a\n{% endset %}[{{ x }}]",
    "{% macro m() %}\n  a\n{% endmacro %}\n[{{ m() }}]",
    "{%- macro m(a,\n   b = 2) -%}\n  {{ a }}{{ b }}\n{%- endmacro -%}\n[{{ m(1) }}]",
    "{{ {\n  'a': 1,\n  'b': [1,\n 2,],\n} }}",
    "{{- '\n a \n' -}}  \n x",
    "{% if n %}\n{% if f %}\n  deep\n{% endif %}\n{% endif %}\nend",
    "  {% if n %}x{% endif %}\n  y {% if n %}\nz{% endif %}\n",
    "{{ '{{' }} {{ '}}' }} {{ \"{%\" }} {{ '#}' }}",
    "{ { n } } {n} {%n%}",
    "{{n}}{{-n-}}{{ n -}} x {{- n}}",
    "# not a comment\n## n\n-- {{ n }}",
    "{% for m in messages %}\n{{ m.role }}: {{ m.content }}\n\n{% endfor %}\n",
    "{% if n -%}\n\n\n  a\n\n{%- else -%}\nb\n{%- endif %}\n\n",
    "{%- for x in ints %}{{ x }}\n{%- endfor -%}\n\n z",
    "a{% if n %}\n\nb{% endif %}\n\n\nc",
    "{% generation %}\na\n{% endgeneration %}\nb\n{%- generation %}\nc{% endgeneration -%}\n d",
    "{%\n  if n\n%}x{%\nendif\n%}",
    "{# a {# b #} c #}",
    "{{ n # comment\n }}",
    "a {{ '#}' }} {# {{ #} b",
    "{%-if n-%} x {%-endif-%}",
    "x {%- raw %} {{ }} {% endraw -%} y",
    "  {% raw %}  a\n  {% endraw %}\nb",
]

# Every pair of tags around a text that nothing in it ends, with white space in front, inside and behind.
RAW_BEGINS = ["{% raw %}", "{%- raw %}", "{% raw -%}", "{%- raw -%}", "{%+ raw %}", "{%raw%}", "{%\n raw\n%}"]
RAW_ENDS = ["{% endraw %}", "{%- endraw %}", "{% endraw -%}", "{%- endraw -%}", "{%+ endraw +%}", "{% endraw +%}", "{%endraw%}"]
RAW_TEXTS = ["\n{{ x }}\n", "", "  ", "\n", " \n  ", "a", "\n\n  {% if %}\n  ", " a ", "\n  a{#\n\n", "{% raw %}\n"]
BLOCKS += [f"x\n  {b}{t}{e}\n  y\n" for b in RAW_BEGINS for e in RAW_ENDS for t in RAW_TEXTS]
BLOCKS += [f"{b}{t}{e}" for b in RAW_BEGINS for e in RAW_ENDS[:2] for t in RAW_TEXTS]
BLOCKS += [
    "{% raw +%}a{% endraw %}",
    "{% if n %}\n{% raw %}\n  a\n{% endraw %}\n{% endif %}\nb",
    "{{ n }} {% raw %}  {% endraw %} {{ n }}",
    "{% raw %}\r\na\r\n  {% endraw %}\r\nb",
    "{% raw %}a{% endraw %}\n{% raw %}\nb{% endraw %}\n\n{{ n }}",
    "{% raw %}\n{% endraw %}{{ missing.x }}",
    "{{ '{% raw %}' }}\n{{ '{% endraw %}' }}\n",
    "{# {% raw %} #}\nx{# {% endraw %} #}\n",
    "{% set x = 'raw' %}\ny",
    "{% raw %}\na",
    "{% endraw %}",
    "{% raw x %}a{% endraw %}",
]


def case(template):
    try:
        texts, _ = engine.render_jinja_template([LINE], chat_template=template, **part_chat.TOKENS, **DATA)
        return {"template": template, "text": texts[0]}
    except Exception:  # any: a template may fail in every way that Python has
        return {"template": template, "text": None}


def make():
    from common import write_json

    # Each part of a line that holds several is a case of its own.
    parts = []
    for line in LINES.strip("\n").split("\n"):
        pieces = line.split("}}|{{")
        if len(pieces) > 1 and "{%" not in line:
            parts.extend("{{" * (i > 0) + piece + "}}" * (i + 1 < len(pieces)) for i, piece in enumerate(pieces))
        else:
            parts.append(line)
    cases = [case(template) for template in parts + BLOCKS]
    # What names a place in memory is another text in each run.
    cases = [case for case in cases if " at 0x" not in (case["text"] or "")]
    refused = REFUSED.strip("\n").split("\n")
    assert all(case(template)["text"] is not None for template in refused)
    env = engine._compile_jinja_template("").environment
    names = {"filters": sorted(env.filters), "tests": sorted(env.tests), "globals": sorted(env.globals)}
    write_json("jinja.json", {"data": DATA, "refused": refused, "names": names}, cases)
