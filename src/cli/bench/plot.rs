//! `--plot`: the roofline of Williams, Waterman and Patterson 2009, as an SVG.
//!
//! A point is a test: to the right, how much it computes for each byte that it must read; upwards, how much it computes in
//! a second. What is possible lies under the slope, where memory binds, and under the level of the weights' arithmetic,
//! where that does. Both axes are logarithmic. The picture brings its own background and follows the viewer's colour scheme.

use std::fmt::Write;

use super::report::Report;
use super::timing::{Found, name_of};
use crate::cli::model::bytes;
use crate::kernels::Arithmetic;

const WIDTH: f64 = 840.0;
const HEIGHT: f64 = 520.0;
/// The plane between the axes.
const LEFT: f64 = 78.0;
const RIGHT: f64 = WIDTH - 26.0;
const TOP: f64 = 76.0;
const BOTTOM: f64 = HEIGHT - 62.0;
/// Font sizes, and the width of a character as a part of that: no more in any sans-serif font that browsers fall back to.
const LABEL: f64 = 13.0;
const SMALL: f64 = 12.0;
const CHARACTER: f64 = 0.6;
/// Radius of a point.
const RADIUS: f64 = 5.0;

/// Colours for both schemes; the contrast of every text with its background is above 4.5 : 1.
const STYLE: &str = "
  .page { fill: #ffffff } .text { fill: #1f2328 } .muted { fill: #59636e }
  .grid { stroke: #d8dee4; stroke-width: 1 } .roof { stroke: #0969da; stroke-width: 2; fill: none } .roof-text { fill: #0969da }
  .point { fill: #bc4c00; stroke: #bc4c00; stroke-width: 2 } .fewer { fill: #ffffff } .leader { stroke: #bc4c00; stroke-width: 1 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .text { fill: #e6edf3 } .muted { fill: #9198a1 }
    .grid { stroke: #2d333b } .roof { stroke: #58a6ff } .roof-text { fill: #58a6ff }
    .point { fill: #f0883e; stroke: #f0883e } .fewer { fill: #0d1117 } .leader { stroke: #f0883e }
  }
";

/// A box in the picture, in pixels.
#[derive(Clone, Copy, Debug)]
struct Area {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Area {
    fn meets(&self, other: &Area) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }

    /// Whether a line crosses it, by looking at points closer to each other than any label is high.
    fn is_crossed(&self, line: &Line) -> bool {
        let steps = (line.1.0 - line.0.0).hypot(line.1.1 - line.0.1).max(1.0) as usize / 4 + 1;
        (0..=steps).any(|i| {
            let part = i as f64 / steps as f64;
            let (x, y) = (line.0.0 + part * (line.1.0 - line.0.0), line.0.1 + part * (line.1.1 - line.0.1));
            x > self.left && x < self.right && y > self.top && y < self.bottom
        })
    }
}

type Place = (f64, f64);
type Line = (Place, Place);

/// Where figures lie in the picture.
struct Scale {
    /// Powers of ten at the plane's edges.
    x: (f64, f64),
    y: (f64, f64),
}

impl Scale {
    fn place(&self, intensity: f64, rate: f64) -> Place {
        let part = |value: f64, (low, high): (f64, f64)| (value.log10() - low) / (high - low);
        (LEFT + part(intensity, self.x) * (RIGHT - LEFT), BOTTOM - part(rate, self.y) * (BOTTOM - TOP))
    }
}

/// A test in the plane.
struct Point<'a> {
    found: &'a Found,
    /// Operations for each byte.
    intensity: f64,
    /// G(FL)OP/s.
    rate: f64,
}

/// The picture; `None` where the machine's roofs are not known.
pub(super) fn plot(report: &Report) -> Option<String> {
    let roofs = &report.machine.roofs;
    let read = roofs.read_gb_s?;
    let levels: Vec<(Arithmetic, f64)> = [Arithmetic::F32, Arithmetic::Bf16, Arithmetic::Int8]
        .into_iter()
        .filter_map(|arithmetic| Some((arithmetic, roofs.arithmetic(arithmetic)?)))
        .collect();
    let highest = levels.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    let points: Vec<Point<'_>> = report.tests.iter().filter_map(point).collect();
    if points.is_empty() || highest <= 0.0 || read <= 0.0 {
        return None;
    }
    let scale = scale(&points, &levels, read, highest);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\" role=\"img\">\n"
    );
    let title = title(report);
    let _ = writeln!(svg, "<title>{}</title>\n<style>{STYLE}</style>", escaped(&title));
    let _ = writeln!(svg, "<rect class=\"page\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"8\"/>");
    text(&mut svg, "text", (LEFT, 32.0), 16.0, "start", &shortened(&title, 16.0, RIGHT - LEFT));
    let below = format!("{}, {} kernels, {}", report.machine.cpu, report.machine.kernels, threads(roofs.threads));
    text(&mut svg, "muted", (LEFT, 53.0), SMALL, "start", &shortened(&below, SMALL, RIGHT - LEFT));
    axes(&mut svg, &scale);
    let (mut taken, lines) = roof(&mut svg, &scale, &levels, read, highest);
    dots(&mut svg, &scale, &points, roofs.threads, &mut taken, &lines);
    svg.push_str("</svg>\n");
    Some(svg)
}

fn title(report: &Report) -> String {
    let model = &report.model;
    let random = if model.random_weights { ", random weights" } else { "" };
    format!("{}: {} in {}{random}", model.name, bytes(model.weight_bytes), model.dtype)
}

fn point(found: &Found) -> Option<Point<'_>> {
    let intensity = found.operations_per_token / found.bytes_per_token;
    let rate = found.operations_per_token * found.tokens_per_s.median / 1e9;
    let sound = [intensity, rate].iter().all(|value| value.is_finite() && *value > 0.0);
    sound.then_some(Point { found, intensity, rate })
}

/// Edges that leave room around points, the slope's upper end and the levels.
fn scale(points: &[Point<'_>], levels: &[(Arithmetic, f64)], read: f64, highest: f64) -> Scale {
    let xs = points.iter().map(|point| point.intensity).chain(levels.iter().map(|(_, rate)| rate / read));
    let ys = points.iter().map(|point| point.rate).chain(levels.iter().map(|(_, rate)| *rate));
    let low = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min).log10();
    let most = xs.clone().fold(0.0, f64::max).log10();
    const ROOM: f64 = 0.45; // decades
    Scale {
        x: (low(&mut xs.into_iter()) - ROOM, most + 2.0 * ROOM),
        y: (low(&mut ys.into_iter()) - ROOM, highest.log10() + 0.3),
    }
}

fn axes(svg: &mut String, scale: &Scale) {
    for (value, label) in ticks(scale.x) {
        let (x, _) = scale.place(value, 1.0);
        line(svg, "grid", ((x, TOP), (x, BOTTOM)));
        text(svg, "muted", (x, BOTTOM + 19.0), SMALL, "middle", &label);
    }
    for (value, label) in ticks(scale.y) {
        let (_, y) = scale.place(1.0, value);
        line(svg, "grid", ((LEFT, y), (RIGHT, y)));
        text(svg, "muted", (LEFT - 9.0, y + 4.0), SMALL, "end", &label);
    }
    text(
        svg,
        "text",
        ((LEFT + RIGHT) / 2.0, BOTTOM + 45.0),
        LABEL,
        "middle",
        "operations for each byte that must be read",
    );
    let (x, y) = (24.0, (TOP + BOTTOM) / 2.0);
    let _ = writeln!(
        svg,
        "<text class=\"text\" font-size=\"{LABEL}\" text-anchor=\"middle\" transform=\"translate({x:.1} {y:.1}) rotate(-90)\">\
         operations per second, in billions</text>"
    );
}

/// 1, 2 and 5 of every decade where there are few, else its 1 alone.
fn ticks((low, high): (f64, f64)) -> Vec<(f64, String)> {
    let steps: &[f64] = if high - low < 3.2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let decades = low.floor() as i32..=high.ceil() as i32;
    let all = decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
    all.filter(|value| (low..=high).contains(&value.log10())).map(|value| (value, figure(value))).collect()
}

/// `0.05`, `20`, `2,000`
fn figure(value: f64) -> String {
    if value < 1.0 {
        return format!("{value:.6}").trim_end_matches('0').to_owned();
    }
    let digits = format!("{value:.0}");
    let mut figure = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            figure.push(',');
        }
        figure.push(digit);
    }
    figure
}

/// The slope and the levels with their names; what they take up, for the labels of points.
fn roof(
    svg: &mut String,
    scale: &Scale,
    levels: &[(Arithmetic, f64)],
    read: f64,
    highest: f64,
) -> (Vec<Area>, Vec<Line>) {
    let (mut taken, mut lines) = (Vec::new(), Vec::new());
    let lowest = 10f64.powf(scale.x.0).max(10f64.powf(scale.y.0) / read);
    let slope = (scale.place(lowest, lowest * read), scale.place(highest / read, highest));
    line(svg, "roof", slope);
    lines.push(slope);
    for (arithmetic, rate) in levels {
        let level = (scale.place(rate / read, *rate), (RIGHT, scale.place(1.0, *rate).1));
        line(svg, "roof", level);
        lines.push(level);
        let unit = if *arithmetic == Arithmetic::Int8 { "GOP/s" } else { "GFLOP/s" };
        let name = format!("{} {} {unit}", name_of(*arithmetic), figure(rate.round()));
        // Two levels may lie so close that their names do not fit over each other: further left there is room.
        let width = width(&name, SMALL);
        let mut area = Area { left: RIGHT - width, top: level.1.1 - 18.0, right: RIGHT, bottom: level.1.1 - 4.0 };
        while taken.iter().any(|other| area.meets(other)) && area.left > LEFT {
            (area.left, area.right) = (area.left - width, area.right - width);
        }
        text(svg, "roof-text", (area.right, level.1.1 - 7.0), SMALL, "end", &name);
        taken.push(area);
    }
    // Along the slope, over its middle.
    let ((x1, y1), (x2, y2)) = slope;
    let angle = (y2 - y1).atan2(x2 - x1);
    let (x, y) = ((x1 + x2) / 2.0 + 9.0 * angle.sin(), (y1 + y2) / 2.0 - 9.0 * angle.cos());
    let name = format!("memory {read:.1} GB/s");
    let _ = writeln!(
        svg,
        "<text class=\"roof-text\" font-size=\"{SMALL}\" text-anchor=\"middle\" \
         transform=\"translate({x:.1} {y:.1}) rotate({:.2})\">{}</text>",
        angle.to_degrees(),
        escaped(&name)
    );
    // The turned box is covered by small upright ones.
    let half = width(&name, SMALL) / 2.0;
    for i in -8..=8 {
        let along = half * f64::from(i) / 8.0;
        let (x, y) = (x + along * angle.cos() + 4.0 * angle.sin(), y + along * angle.sin() - 4.0 * angle.cos());
        taken.push(Area { left: x - 9.0, top: y - 9.0, right: x + 9.0, bottom: y + 9.0 });
    }
    (taken, lines)
}

/// The points, and beside each its name where one fits. One without a name still has it as a tooltip.
fn dots(svg: &mut String, scale: &Scale, points: &[Point<'_>], most: usize, taken: &mut Vec<Area>, lines: &[Line]) {
    let places: Vec<Place> = points.iter().map(|point| scale.place(point.intensity, point.rate)).collect();
    let around = |(x, y): Place, r: f64| Area { left: x - r, top: y - r, right: x + r, bottom: y + r };
    taken.extend(places.iter().map(|place| around(*place, RADIUS + 2.0)));
    let mut leaders: Vec<Line> = Vec::new();
    for (point, place) in points.iter().zip(&places) {
        let name = name(point.found, most);
        let wide = width(&name, LABEL);
        let spot = candidates(*place, wide).into_iter().find(|(area, leader)| {
            let inside = area.left >= LEFT && area.right <= RIGHT && area.top >= TOP && area.bottom <= BOTTOM;
            let free = !taken.iter().any(|other| area.meets(other));
            let clear = !lines.iter().chain(&leaders).any(|line| area.is_crossed(line));
            // A leader may start at its own point but cross no other label.
            let shown = leader.is_none_or(|leader| {
                let own = around(*place, RADIUS + 2.0);
                !taken.iter().any(|other| other.is_crossed(&leader) && !other.meets(&own))
            });
            inside && free && clear && shown
        });
        if let Some((area, leader)) = spot {
            if let Some(leader) = leader {
                line(svg, "leader", leader);
                leaders.push(leader);
            }
            // The box is as wide as the widest font needs, so that the side towards the point is the one to write from.
            let (x, anchor) = if area.right <= place.0 { (area.right, "end") } else { (area.left, "start") };
            text(svg, "text", (x, area.bottom - 4.0), LABEL, anchor, &name);
            taken.push(area);
        }
    }
    for (point, (x, y)) in points.iter().zip(&places) {
        let class = if point.found.threads < most { "point fewer" } else { "point" };
        let tip = format!("{}: {:.1} tokens/s", name(point.found, most), point.found.tokens_per_s.median);
        let _ = writeln!(
            svg,
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{RADIUS}\"><title>{}</title></circle>",
            escaped(&tip)
        );
    }
}

/// Places for a label, the best first: beside the point, below it, above it, then further away with a line to it.
fn candidates((x, y): Place, wide: f64) -> Vec<(Area, Option<Line>)> {
    const TALL: f64 = 17.0;
    let area = |left: f64, top: f64| Area { left, top, right: left + wide, bottom: top + TALL };
    let gap = RADIUS + 5.0;
    let mut all = vec![
        (area(x + gap, y - TALL / 2.0), None),
        (area(x - gap - wide, y - TALL / 2.0), None),
        (area(x - wide / 2.0, y + gap), None),
        (area(x - wide / 2.0, y - gap - TALL), None),
    ];
    for distance in [22.0, 36.0, 52.0, 70.0, 90.0, 112.0, 136.0] {
        for (dx, dy) in [(0.8, 0.6), (0.45, 0.9), (-0.8, 0.6), (0.8, -0.6), (-0.8, -0.6), (-0.45, 0.9), (0.45, -0.9)] {
            let (end_x, end_y): Place = (x + distance * dx, y + distance * dy);
            let left = if dx > 0.0 { end_x + 3.0 } else { end_x - 3.0 - wide };
            all.push((area(left, end_y - TALL / 2.0), Some(((x, y), (end_x, end_y)))));
        }
    }
    all
}

/// `tg128 @ d900, 8 sequences, 1 thread: 92 %`
fn name(found: &Found, most: usize) -> String {
    let mut name = found.name.clone();
    if found.depth > 0 {
        let _ = write!(name, " @ d{}", found.depth);
    }
    if found.batch > 1 {
        let _ = write!(name, " × {}", found.batch);
    }
    if found.threads < most {
        let _ = write!(name, ", {}", threads(found.threads));
    }
    if let Some(percent) = found.percent_of_roof {
        let _ = write!(name, ": {percent:.0} %");
    }
    name
}

fn threads(n: usize) -> String {
    crate::error::count(n, "thread")
}

fn width(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * CHARACTER
}

/// As much of a text as fits.
fn shortened(text: &str, size: f64, room: f64) -> String {
    let most = (room / (size * CHARACTER)) as usize;
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

fn line(svg: &mut String, class: &str, ((x1, y1), (x2, y2)): Line) {
    let _ = writeln!(svg, "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>");
}

fn text(svg: &mut String, class: &str, (x, y): Place, size: f64, anchor: &str, text: &str) {
    let text = escaped(text);
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

/// A text inside an element.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_figures_within_the_axis() {
        let labels = |low: f64, high: f64| {
            ticks((low.log10(), high.log10())).into_iter().map(|(_, label)| label).collect::<Vec<_>>()
        };
        assert_eq!(labels(0.04, 3.0), ["0.05", "0.1", "0.2", "0.5", "1", "2"]);
        assert_eq!(labels(0.3, 20_000.0), ["1", "10", "100", "1,000", "10,000"]);
    }

    /// GPT-2 in several formats' place: tests that lie near each other, below and at the slope and under a level.
    fn report(tests: &[(&str, usize, usize, usize, f64, f64, f64)]) -> Report {
        let tests: Vec<serde_json::Value> = tests
            .iter()
            .map(|(name, threads, depth, batch, speed, bytes, operations)| {
                serde_json::json!({
                    "name": name, "threads": threads, "depth": depth, "batch": batch, "limit": "read",
                    "tokens_per_s": { "median": speed, "mean": speed, "sd": 0.0, "runs": [speed] },
                    "roof_tokens_per_s": 100.0, "percent_of_roof": 92.4, "bytes_per_token": bytes,
                    "operations_per_token": operations, "read_gb_s": 45.7, "joules_per_token": null,
                })
            })
            .collect();
        serde_json::from_value(serde_json::json!({
            "fireside": { "version": "0.1.0", "commit": null }, "date": "2026-11-20T18:11:51Z", "command": "fireside bench",
            "machine": {
                "cpu": "AMD <EPYC> & sons", "cores": 2, "memory_bytes": null, "system": "linux", "kernels": "avx512bf16",
                "roofs": {
                    "threads": 2, "read_gb_s": 45.7, "read_1t_gb_s": 41.8,
                    "f32_gflop_s": 505.0, "bf16_gflop_s": 1010.0, "int8_gop_s": 1993.0,
                },
            },
            "model": {
                "name": "gpt2", "architecture": "gpt2", "type": "f32", "kv": "f32", "random_weights": true, "parameters": 124_439_808,
                "weight_bytes": 497_759_232, "bytes_per_token": 494_613_504, "layers": 12, "vocab_size": 50257, "context": 1024,
            },
            "tests": tests, "first_token_ms": null, "peak_memory_bytes": null,
        }))
        .expect("a report")
    }

    #[test]
    fn every_test_of_a_sweep_has_a_point_and_a_label() {
        let sweep = report(&[
            ("pp512", 2, 0, 1, 1650.0, 1.0e6, 1.79e8),
            ("pp512", 1, 0, 1, 840.0, 1.0e6, 1.79e8),
            ("pp512", 2, 500, 1, 1500.0, 1.1e6, 1.88e8),
            ("tg128", 2, 0, 1, 88.0, 4.97e8, 2.48e8),
            ("tg128", 1, 0, 1, 81.0, 4.97e8, 2.48e8),
            ("tg128", 2, 900, 1, 76.0, 5.6e8, 2.9e8),
            ("tg128", 2, 0, 8, 560.0, 6.4e7, 2.48e8),
            ("pp64+tg32", 2, 0, 1, 240.0, 1.7e8, 1.9e8),
        ]);
        let svg = plot(&sweep).expect("a picture");
        assert_eq!(svg.matches("<circle").count(), 8);
        for label in [
            "pp512: 92 %",
            "pp512, 1 thread: 92 %",
            "pp512 @ d500",
            "tg128: 92 %",
            "tg128, 1 thread",
            "tg128 @ d900",
            "tg128 × 8",
            "pp64+tg32",
        ] {
            assert!(svg.contains(&format!(">{label}")), "{label}: {svg}");
        }
        assert!(svg.contains("AMD &lt;EPYC&gt; &amp; sons") && !svg.contains("<EPYC>"));
        let empty = report(&[]);
        assert!(plot(&empty).is_none());
    }

    #[test]
    fn names_cannot_break_the_picture() {
        assert_eq!(escaped("a<b>&\"c"), "a&lt;b&gt;&amp;\"c");
        assert_eq!(shortened("abcdef", 10.0, 18.0), "ab…");
        assert_eq!(shortened("abc", 10.0, 18.0), "abc");
    }

    #[test]
    fn a_box_knows_what_it_meets_and_what_crosses_it() {
        let area = Area { left: 0.0, top: 0.0, right: 10.0, bottom: 10.0 };
        assert!(area.meets(&Area { left: 9.0, top: 9.0, right: 20.0, bottom: 20.0 }));
        assert!(!area.meets(&Area { left: 10.0, top: 0.0, right: 20.0, bottom: 10.0 }));
        assert!(area.is_crossed(&((-50.0, -50.0), (50.0, 50.0))));
        assert!(!area.is_crossed(&((-50.0, 11.0), (50.0, 11.0))));
    }
}
