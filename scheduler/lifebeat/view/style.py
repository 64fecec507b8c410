"""The page's one stylesheet, and the policy that lets a browser take no other."""

from __future__ import annotations

import base64
import hashlib

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--back:#fff;--card:#f4f6f8;--line:#d0d7de;--link:#0550ae;
--ok:#1a7f37;--bad:#b42318;--next:#6e7781}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9da7b3;--back:#0d1117;--card:#161b22;--line:#3d444d;
--link:#79c0ff;--ok:#56d364;--bad:#ff8a80;--next:#8b949e}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:72rem;padding:1rem;background:var(--back);color:var(--ink);
font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
a{color:var(--link)}
a.skip{position:absolute;left:-99rem}a.skip:focus{position:static}
:focus-visible{outline:3px solid var(--link);outline-offset:2px}
h1{margin:0;font-size:1rem;font-weight:600;color:var(--soft)}
h2{margin:2rem 0 .5rem;font-size:1.25rem}
.summary{margin:.25rem 0 1rem;font-size:1.35rem;line-height:1.35}
.note{padding:.5rem .75rem;border-left:4px solid var(--ok);background:var(--card)}
.note.bad{border-color:var(--bad)}
nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1rem;margin:0 0 .5rem;padding:0;list-style:none}
dl{margin:0;padding:.5rem .75rem;background:var(--card);border-radius:.4rem}
dl>div{display:flex;flex-wrap:wrap;gap:0 1rem;padding:.15rem 0}
dt{flex:0 0 11rem;color:var(--soft)}dd{flex:1 1 14rem;margin:0}dd p{margin:0}dd form{display:inline-block;margin:0}
.wide{overflow-x:auto}
table{width:100%;border-collapse:collapse;font-size:.9rem}
caption{text-align:left;color:var(--soft);padding:.25rem 0}
th,td{padding:.35rem .75rem .35rem 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top;
font-weight:400;overflow-wrap:normal}
thead th{color:var(--soft)}
time{white-space:nowrap}
td>form,td>details{display:inline-block;margin:0 .5rem .25rem 0}
pre{margin:.25rem 0;padding:.5rem;max-width:100%;white-space:pre-wrap;overflow-wrap:anywhere;background:var(--card);
font:.85rem/1.4 ui-monospace,monospace}
form{margin:.25rem 0}label{display:block}
button,select,input{font:inherit;color:inherit;background:var(--back);border:1px solid var(--soft);border-radius:.4rem;
padding:.35rem .75rem;min-height:2.25rem;max-width:100%}
button{cursor:pointer;background:var(--card)}
.bad{color:var(--bad)}.ok{color:var(--ok)}.note.bad{color:inherit}
svg{display:block;min-width:44rem;width:100%;height:auto}
svg text{fill:var(--ink);font:12px system-ui,sans-serif}svg .axis{fill:var(--soft)}
svg line{stroke:var(--line)}svg .now{stroke:var(--ink)}
svg .ahead{fill:none;stroke:var(--next)}svg .ran{fill:var(--ok)}svg .failed{fill:none;stroke:var(--bad);stroke-width:2}
footer{margin-top:2rem;color:var(--soft);font-size:.9rem}
"""
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
# Of a file neither a frame nor a form's target can be restricted, and there is no form in it.
FILE_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'"
POLICY = f"{FILE_POLICY}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
