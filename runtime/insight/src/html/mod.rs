//! Reports as pages: one file each, without scripts and without anything to fetch; drawings are SVG in the page. Colours
//! follow the reader's light or dark setting. All text is escaped where it is written, by [`escape`].

mod audit;
mod chart;
mod drift;
mod stats;
#[cfg(test)]
mod tests;

pub use audit::audit_page;
pub use drift::drift_page;
pub use stats::stats_page;

use std::fmt::Write;

/// Text as HTML, in elements and in quoted attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Characters that HTML does not allow, and those that turn the direction of what follows.
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                escaped.push(if letter == '\n' { ' ' } else { '\u{fffd}' });
            }
            _ => escaped.push(letter),
        }
    }
    escaped
}

/// A page; `body` is HTML.
fn page(title: &str, subtitle: &str, body: &str) -> String {
    let (title, subtitle) = (escape(title), escape(subtitle));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}: {subtitle}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{title}</h1>\n<p>{subtitle}</p>\n</header>\n\
         <main>\n{body}</main>\n<footer>Made by plumb.</footer>\n</body>\n</html>\n"
    )
}

/// Figures in a row: name, value, and a class (`good`, `bad`, `warn`, or nothing).
fn tiles(tiles: &[(&str, String, &str)]) -> String {
    let mut html = String::from("<div class=\"tiles\">\n");
    for (name, value, class) in tiles {
        append(&mut html, format_args!("<div class=\"tile {class}\"><b>{}</b>{}</div>\n", escape(value), escape(name)));
    }
    html + "</div>\n"
}

/// A table; cells are HTML, columns from `numbers_from` on are set to the right.
fn table(header: &[&str], numbers_from: usize, rows: &[Vec<String>]) -> String {
    let class = |at: usize| if at >= numbers_from { " class=\"n\"" } else { "" };
    let mut html = String::from("<div class=\"scroll\"><table>\n<thead><tr>");
    for (at, name) in header.iter().enumerate() {
        append(&mut html, format_args!("<th{}>{}</th>", class(at), escape(name)));
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        html.push_str("<tr>");
        for (at, cell) in row.iter().enumerate() {
            append(&mut html, format_args!("<td{}>{cell}</td>", class(at)));
        }
        html.push_str("</tr>\n");
    }
    html + "</tbody></table></div>\n"
}

/// A name in a table; a long one breaks between view and feature first.
fn code(name: &str) -> String {
    format!("<code>{}</code>", escape(name).replace("__", "__<wbr>"))
}

fn append(html: &mut String, arguments: std::fmt::Arguments<'_>) {
    html.write_fmt(arguments).expect("a string takes every text");
}

const STYLE: &str = "\
:root { --page: #f6f6f3; --card: #ffffff; --ink: #1d1f23; --soft: #666c75; --line: #e2e3e0; --grid: #ececea;
  --a: #2f6fd0; --b: #dd8420; --good: #22824a; --warn: #a36a00; --bad: #c8323c; --mute: #aab0b8; }
@media (prefers-color-scheme: dark) { :root { --page: #131519; --card: #1b1e24; --ink: #e5e7ea; --soft: #98a0ab;
  --line: #2c3139; --grid: #262a31; --a: #6aa0f4; --b: #f0a652; --good: #58c184; --warn: #e0b04c; --bad: #f3737b;
  --mute: #59616c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.5rem 3rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, \"Segoe UI\", Roboto, \"DejaVu Sans\", sans-serif; }
h1 { margin: 0; font-size: 1.6rem; letter-spacing: -0.01em; }
h2 { margin: 2.2rem 0 0.8rem; font-size: 1.15rem; }
h3 { margin: 0 0 0.1rem; font-size: 1rem; overflow-wrap: anywhere; }
header p, .hint, footer, .sub { color: var(--soft); }
header p { margin: 0.2rem 0 0; overflow-wrap: anywhere; }
.hint { margin: -0.4rem 0 0.9rem; max-width: 60rem; }
.sub { margin: 0 0 0.6rem; font-size: 0.85rem; }
footer { margin-top: 2.5rem; font-size: 0.85rem; }
.tiles { display: flex; flex-wrap: wrap; gap: 0.7rem; margin: 1.3rem 0; }
.tile { flex: 1 1 8.5rem; padding: 0.7rem 0.9rem; border: 1px solid var(--line); border-radius: 8px; background: var(--card);
  color: var(--soft); font-size: 0.85rem; }
.tile b { display: block; color: var(--ink); font-size: 1.35rem; font-weight: 600; line-height: 1.3; }
.tile.good b, .good { color: var(--good); } .tile.bad b, .bad { color: var(--bad); } .tile.warn b, .warn { color: var(--warn); }
.card { padding: 1rem 1.1rem; border: 1px solid var(--line); border-radius: 8px; background: var(--card); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 0.9rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; background: var(--card); }
table { width: 100%; border-collapse: collapse; font-size: 0.88rem; }
th, td { padding: 0.4rem 0.75rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: middle; }
tr:last-child td { border-bottom: 0; }
th { color: var(--soft); font-weight: 500; white-space: nowrap; }
td:first-child { min-width: 14rem; } .card td:first-child { min-width: 0; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.card table { font-size: 0.82rem; } .card .scroll { margin-top: 0.7rem; border: 0; border-radius: 0; }
.card th, .card td { padding: 0.2rem 0.4rem; }
code { font: 0.93em ui-monospace, SFMono-Regular, Menlo, \"DejaVu Sans Mono\", monospace; overflow-wrap: anywhere; }
a { color: inherit; text-decoration-color: var(--mute); text-underline-offset: 3px; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 11px; font-family: inherit; font-variant-numeric: tabular-nums; }
.spark svg { width: 7.5rem; }
.grid { stroke: var(--grid); stroke-width: 1; } .axis { stroke: var(--mute); stroke-width: 1; }
.fa { fill: var(--a); } .fb { fill: var(--b); } .fbad { fill: var(--bad); } .fwarn { fill: var(--warn); }
.fmute { fill: var(--mute); } .fgood { fill: var(--good); }
.la { stroke: var(--a); } .lb { stroke: var(--b); } .la, .lb { fill: none; stroke-width: 2; stroke-linejoin: round; }
.limit { stroke: var(--bad); stroke-width: 1; stroke-dasharray: 4 3; }
.bars { display: grid; grid-template-columns: minmax(9rem, 22rem) 1fr auto; gap: 0.3rem 0.9rem; align-items: center;
  font-size: 0.88rem; }
.bars svg { height: 14px; } .bars .v { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bars .k { overflow-wrap: anywhere; line-height: 1.25; }
.cards .bars { grid-template-columns: minmax(5rem, 45%) 1fr auto; font-size: 0.82rem; }
.key { display: flex; flex-wrap: wrap; gap: 0.3rem 1.2rem; margin: 0 0 0.9rem; color: var(--soft); font-size: 0.85rem; }
.key span::before { content: \"\"; display: inline-block; width: 0.75em; height: 0.75em; margin-right: 0.45em; border-radius: 2px;
  background: var(--c); }
.badge { padding: 0.05rem 0.5rem; border: 1px solid currentColor; border-radius: 99px; font-size: 0.78rem; white-space: nowrap; }
@media (max-width: 40rem) { .bars { grid-template-columns: 1fr auto; } .bars svg { grid-row: auto; }
  .bars .k { grid-column: 1 / -1; } .cards { grid-template-columns: 1fr; } }
@media print { body { background: none; } .card, .tile { break-inside: avoid; } }
";
