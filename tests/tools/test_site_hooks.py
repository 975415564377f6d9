"""The checks of a built site see what needs the network, and what the API's pages lack."""

from pathlib import Path

from tools.site_hooks import FENCED, LINK, anchor, faults, public_names, site_uri


def test_scripts_styles_fonts_and_pictures_of_the_network_are_seen(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text(
        '<a href="https://example.org">a link may leave</a><link rel="canonical" href="https://x">'
        '<link rel="stylesheet" href="https://one/a.css"><script src="//two/b.js"></script>'
        '<img src="http://three/c.png"><script src="assets/d.js"></script>'
    )
    (tmp_path / "assets" / "a.css").write_text(
        '@font-face { src: url("https://four/e.woff") } p { background: url(f.png) }'
    )
    assert faults(tmp_path, set()) == [
        "index.html loads https://one/a.css",
        "index.html loads //two/b.js",
        "index.html loads http://three/c.png",
        "a.css loads https://four/e.woff",
    ]


def test_a_public_name_without_an_anchor_is_seen(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text('<h2 id="tfweightmirror.rules.get">get</h2>')
    names = {"tfweightmirror.rules.get", "tfweightmirror.rules.RULES"}
    assert names < public_names()
    assert faults(tmp_path, names) == ["No page of the API has tfweightmirror.rules.RULES"]


def test_anchors_are_those_of_github() -> None:
    assert anchor("What `W` is, and B - W") == "what-w-is-and-b---w"


def test_places_on_the_site_are_those_of_the_repository_below_docs() -> None:
    assert site_uri("README.md") == "index.md"
    assert site_uri("docs/guides/angles.md") == "guides/angles.md"
    assert site_uri("reports/amit2018/report.md") == "reports/amit2018/report.md"


def test_links_are_told_from_anchors_addresses_and_code() -> None:
    text = "[a](b.md#c) [d](#e) [f](https://g) ![h](i.png)\n```sh\n[j](k.md)\n```\n"
    assert LINK.findall(FENCED.split(text)[0]) == ["b.md", "i.png"]
