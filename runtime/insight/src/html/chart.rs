//! Drawings: bars and distribution functions as SVG.

use super::{append, escape};
use crate::figures::percent;

/// Points per unit of length; coordinates have one decimal.
fn at(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// A bar of a histogram.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bar {
    /// What is in it, for the tip.
    pub(super) label: String,
    /// Shares of one or two tables, 0 to 1.
    pub(super) shares: Vec<f64>,
    /// The class of its colour; of two tables' bars, the first's.
    pub(super) class: &'static str,
}

/// The widest a bar gets, so that few of them do not look like a wall.
const BAR_MAX: f64 = 34.0;

/// Upright bars on a line; below it the labels `ticks`: one under each bar if they are as many, else spread evenly.
pub(super) fn histogram(name: &str, bars: &[Bar], ticks: &[String], width: f64, height: f64) -> String {
    const FOOT: f64 = 18.0;
    const HEAD: f64 = 14.0;
    let foot = if ticks.is_empty() { 1.0 } else { FOOT };
    let head = if ticks.is_empty() { 1.0 } else { HEAD };
    let most = bars.iter().flat_map(|bar| &bar.shares).copied().fold(0.0, f64::max);
    let room = height - foot - head;
    let step = width / bars.len().max(1) as f64;
    let gap = (step * 0.15).clamp(0.5, 4.0);
    let mut svg = format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">", escape(name));
    let base = height - foot;
    if !ticks.is_empty() && most > 0.0 {
        append(&mut svg, format_args!("<line class=\"grid\" x1=\"0\" x2=\"{width}\" y1=\"{head}\" y2=\"{head}\"/>"));
        append(&mut svg, format_args!("<text x=\"0\" y=\"{}\">{}</text>", head - 4.0, escape(&percent(most))));
    }
    for (index, bar) in bars.iter().enumerate() {
        let each = ((step - gap) / bar.shares.len().max(1) as f64).min(BAR_MAX);
        let left = (index as f64 + 0.5) * step - each * bar.shares.len() as f64 / 2.0;
        for (side, share) in bar.shares.iter().enumerate() {
            let tall = if most > 0.0 { share / most * room } else { 0.0 };
            // What is there at all is seen.
            let tall = if *share > 0.0 { tall.max(1.0) } else { 0.0 };
            let (x, y) = (at(left + side as f64 * each), at(base - tall));
            let class = if side == 0 { bar.class } else { "fb" };
            let tip = format!("{}: {}", bar.label, percent(*share));
            append(
                &mut svg,
                format_args!(
                    "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\"><title>{}</title></rect>",
                    at(each.max(0.5)),
                    at(tall),
                    escape(&tip)
                ),
            );
        }
    }
    append(&mut svg, format_args!("<line class=\"axis\" x1=\"0\" x2=\"{width}\" y1=\"{base}\" y2=\"{base}\"/>"));
    if ticks.len() == bars.len() {
        for (index, tick) in ticks.iter().enumerate() {
            let (x, y) = (at((index as f64 + 0.5) * step), height - 5.0);
            append(&mut svg, format_args!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{}</text>", escape(tick)));
        }
    } else {
        push_ticks(&mut svg, ticks, width, height);
    }
    svg + "</svg>"
}

fn push_ticks(svg: &mut String, ticks: &[String], width: f64, height: f64) {
    for (index, tick) in ticks.iter().enumerate() {
        let (x, anchor) = match index {
            0 => (0.0, "start"),
            _ if index + 1 == ticks.len() => (width, "end"),
            _ => (at(width * index as f64 / (ticks.len() - 1) as f64), "middle"),
        };
        append(
            svg,
            format_args!("<text x=\"{x}\" y=\"{}\" text-anchor=\"{anchor}\">{}</text>", height - 5.0, escape(tick)),
        );
    }
}

/// A lying bar with its label and value; parts are shares of the longest bar with their colours and tips, `limits` are
/// marked across.
pub(super) struct Row {
    /// The label, as HTML.
    pub(super) label: String,
    /// Length, class and tip of each part.
    pub(super) parts: Vec<(f64, &'static str, String)>,
    /// The value, as text.
    pub(super) value: String,
}

/// Lying bars under each other.
pub(super) fn rows(rows: &[Row], limits: &[f64]) -> String {
    const WIDTH: f64 = 600.0;
    let mut html = String::from("<div class=\"bars\">\n");
    for row in rows {
        append(&mut html, format_args!("<div class=\"k\">{}</div>", row.label));
        append(
            &mut html,
            format_args!("<svg viewBox=\"0 0 {WIDTH} 14\" preserveAspectRatio=\"none\" aria-hidden=\"true\">"),
        );
        html.push_str("<rect fill=\"var(--grid)\" x=\"0\" y=\"1\" width=\"600\" height=\"12\"/>");
        let mut x = 0.0;
        for (length, class, tip) in &row.parts {
            let wide = (length.clamp(0.0, 1.0) * WIDTH).min(WIDTH - x);
            append(
                &mut html,
                format_args!(
                    "<rect class=\"{class}\" x=\"{}\" y=\"1\" width=\"{}\" height=\"12\"><title>{}</title></rect>",
                    at(x),
                    at(wide),
                    escape(tip)
                ),
            );
            x += wide;
        }
        for limit in limits.iter().filter(|limit| **limit <= 1.0) {
            let x = at(limit * WIDTH);
            append(&mut html, format_args!("<line class=\"axis\" x1=\"{x}\" x2=\"{x}\" y1=\"0\" y2=\"14\"/>"));
        }
        append(&mut html, format_args!("</svg><div class=\"v\">{}</div>\n", escape(&row.value)));
    }
    html + "</div>\n"
}

/// Two distribution functions over one axis.
pub(super) fn curves(name: &str, points: &[(f64, [f64; 2])], ticks: &[String], width: f64, height: f64) -> String {
    const FOOT: f64 = 18.0;
    let (Some(&(first, _)), Some(&(last, _))) = (points.first(), points.last()) else { return String::new() };
    let base = height - FOOT;
    let reach = last - first;
    let x_of = |x: f64| if reach > 0.0 { (x - first) / reach * width } else { width / 2.0 };
    let y_of = |share: f64| base - share * (base - 4.0);
    let mut svg = format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">", escape(name));
    for share in [0.5, 1.0] {
        let y = at(y_of(share));
        append(&mut svg, format_args!("<line class=\"grid\" x1=\"0\" x2=\"{width}\" y1=\"{y}\" y2=\"{y}\"/>"));
    }
    // To the right, where the functions have risen past it.
    let y = at(y_of(0.5) - 4.0);
    append(&mut svg, format_args!("<text x=\"{width}\" y=\"{y}\" text-anchor=\"end\">50 %</text>"));
    append(&mut svg, format_args!("<line class=\"axis\" x1=\"0\" x2=\"{width}\" y1=\"{base}\" y2=\"{base}\"/>"));
    for (side, class) in ["la", "lb"].into_iter().enumerate() {
        // Steps: a distribution function jumps at each value.
        let mut path = format!("M0 {}", at(y_of(0.0)));
        for (x, shares) in points {
            append(&mut path, format_args!("H{}V{}", at(x_of(*x)), at(y_of(shares[side]))));
        }
        append(&mut path, format_args!("H{width}"));
        append(&mut svg, format_args!("<path class=\"{class}\" d=\"{path}\"/>"));
    }
    push_ticks(&mut svg, ticks, width, height);
    svg + "</svg>"
}

/// What colours mean: variable of the style and name.
pub(super) fn key(colours: &[(&str, String)]) -> String {
    let mut html = String::from("<div class=\"key\">");
    for (colour, name) in colours {
        append(&mut html, format_args!("<span style=\"--c: var(--{colour})\">{}</span>", escape(name)));
    }
    html + "</div>\n"
}
