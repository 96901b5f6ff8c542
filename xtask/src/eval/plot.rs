//! The picture: each runaway's time to its incident, to its containment, and to the cap that holds
//! it without a sensor.

use anyhow::{Result, anyhow};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::judged::{Judged, seconds};
use crate::measure::stats::median;

/// Pixels. A page shows it with its full width.
const WIDTH: u32 = 960;
const HEAD: u32 = 64;
const LINE: u32 = 48;
const FOOT: u32 = 68;
const NAMES: u32 = 190;
const EDGE: u32 = 24;

/// Between the three marks of one workload, as a part of its line.
const APART: f64 = 0.24;
/// Half of a mark, pixels.
const MARK: i32 = 4;

/// Okabe and Ito's (2008): told apart by those who see fewer colours; the marks differ as well.
const BLUE: RGBColor = RGBColor(0, 114, 178);
const VERMILION: RGBColor = RGBColor(213, 94, 0);
const GREY: RGBColor = RGBColor(90, 90, 90);
const GRID: RGBColor = RGBColor(225, 225, 225);

/// Narrower than this the axis has too few labels.
const DECADES: f64 = 10.0;

/// One of the three times.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Incident,
    Containment,
    Cap,
}

impl What {
    const ALL: [Self; 3] = [Self::Incident, Self::Containment, Self::Cap];

    fn name(self) -> &'static str {
        match self {
            Self::Incident => "incident",
            Self::Containment => "contained",
            Self::Cap => "pids.max alone: no more forks",
        }
    }

    fn colour(self) -> RGBColor {
        match self {
            Self::Incident => BLUE,
            Self::Containment => VERMILION,
            Self::Cap => GREY,
        }
    }

    /// Above or below the middle of the line.
    fn offset(self) -> f64 {
        match self {
            Self::Incident => APART,
            Self::Containment => 0.0,
            Self::Cap => -APART,
        }
    }

    fn times(self, workload: &Judged) -> Vec<f64> {
        match self {
            Self::Incident => seconds(workload.hits().map(|hit| Some(hit.opened_after))),
            Self::Containment => seconds(workload.hits().map(|hit| hit.contained_after)),
            Self::Cap => seconds(workload.alone.iter().map(|alone| alone.capped_after)),
        }
    }

    fn draw<DB: DrawingBackend>(self, area: &DrawingArea<DB, Shift>, at: (i32, i32)) -> Result<()> {
        let style = self.colour().filled();
        let (x, y) = at;
        match self {
            Self::Incident => area.draw(&Circle::new(at, MARK, style)),
            Self::Containment => {
                area.draw(&Rectangle::new([(x - MARK, y - MARK), (x + MARK, y + MARK)], style))
            }
            Self::Cap => area.draw(&TriangleMarker::new(at, MARK + 2, style)),
        }
        .map_err(|error| anyhow!("{error}"))
    }
}

/// The picture as SVG. White below it, so that it can be read on a dark page too.
pub fn svg(workloads: &[Judged]) -> Result<String> {
    let malign: Vec<&Judged> = workloads.iter().filter(|it| it.is_malign()).collect();
    let height = HEAD + LINE * malign.len().max(1) as u32 + FOOT;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        draw(&area, &malign).map_err(|error| anyhow!("the plot: {error}"))?;
        area.present().map_err(|error| anyhow!("the plot: {error}"))?;
    }
    Ok(svg)
}

fn draw(area: &DrawingArea<SVGBackend<'_>, Shift>, malign: &[&Judged]) -> Result<()> {
    area.fill(&WHITE)?;
    legend(area)?;
    let (low, high) = range(malign);
    // A chart needs some height, be it empty.
    let lines = malign.len().max(1) as f64;
    let mut chart = ChartBuilder::on(area)
        .margin_top(HEAD)
        .margin_right(EDGE)
        .margin_bottom(12)
        .x_label_area_size(FOOT - 12)
        .y_label_area_size(NAMES)
        .build_cartesian_2d((low..high).log_scale(), 0.0..lines)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .y_label_formatter(&|_| String::new())
        .light_line_style(WHITE)
        .bold_line_style(GRID)
        .axis_style(GREY)
        .x_label_formatter(&|seconds| axis_label(*seconds))
        .x_desc("seconds from the start of the workload (logarithmic)")
        .label_style(("sans-serif", 16).into_font().color(&BLACK))
        .draw()?;
    for (at, workload) in malign.iter().enumerate() {
        // The first workload on top.
        let middle = lines - at as f64 - 0.5;
        let (left, y) = chart.backend_coord(&(low, middle));
        let name = TextStyle::from(("sans-serif", 17).into_font())
            .color(&BLACK)
            .pos(Pos::new(HPos::Right, VPos::Center));
        area.draw_text(&workload.name, &name, (left - 12, y))?;
        if at > 0 {
            let (_, border) = chart.backend_coord(&(low, lines - at as f64));
            let right = (WIDTH - EDGE) as i32;
            area.draw(&PathElement::new([(left, border), (right, border)], GRID))?;
        }
        if workload.hits().next().is_none() {
            let text = name.color(&VERMILION).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw_text("never found", &text, (left + 12, y))?;
        }
        for what in What::ALL {
            let times = what.times(workload);
            let point = |time: f64| chart.backend_coord(&(time.max(low), middle + what.offset()));
            let least = times.iter().copied().reduce(f64::min);
            let most = times.iter().copied().reduce(f64::max);
            if let (Some(least), Some(most)) = (least, most) {
                let spread = what.colour().stroke_width(2);
                area.draw(&PathElement::new([point(least), point(most)], spread))?;
                let ends =
                    if times.len() > 1 { vec![point(least), point(most)] } else { Vec::new() };
                for (x, y) in ends {
                    area.draw(&PathElement::new([(x, y - MARK), (x, y + MARK)], spread))?;
                }
                what.draw(area, point(median(&times)))?;
            }
        }
    }
    Ok(())
}

fn legend(area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<()> {
    let text = |size: u32, h| {
        TextStyle::from(("sans-serif", size).into_font())
            .color(&BLACK)
            .pos(Pos::new(h, VPos::Center))
    };
    area.draw_text(
        "How soon a runaway is found, stopped, and held by a cap alone",
        &text(20, HPos::Left),
        (EDGE as i32, 20),
    )?;
    let mut x = NAMES as i32;
    for what in What::ALL {
        what.draw(area, (x, 46))?;
        area.draw_text(what.name(), &text(16, HPos::Left), (x + 12, 46))?;
        x += 44 + 8 * what.name().len() as i32;
    }
    area.draw_text(
        "mark: median, line: all runs",
        &text(16, HPos::Right),
        ((WIDTH - EDGE) as i32, 46),
    )?;
    Ok(())
}

/// Decades that hold all times.
fn range(malign: &[&Judged]) -> (f64, f64) {
    let times: Vec<f64> = malign
        .iter()
        .flat_map(|workload| What::ALL.into_iter().flat_map(|what| what.times(workload)))
        .filter(|time| *time > 0.0)
        .collect();
    let low = times.iter().copied().reduce(f64::min).unwrap_or(1.0);
    let high = times.iter().copied().reduce(f64::max).unwrap_or(1.0);
    let decade = |time: f64, round: fn(f64) -> f64| 10_f64.powf(round(time.log10()));
    let low = decade(low, f64::floor);
    // A little more on either side, so that the outermost decades get their labels.
    (low * 0.999, decade(high, f64::ceil).max(low * DECADES) * 1.001)
}

/// `0.01`, `0.1`, `1`, `100`.
fn axis_label(seconds: f64) -> String {
    if seconds >= 1.0 { format!("{seconds:.0}") } else { format!("{seconds}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::fixture;

    #[test]
    fn every_runaway_is_in_the_picture_and_no_honest_work() {
        let evaluation = fixture::evaluation();
        let svg = svg(&evaluation.workloads).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("npm-missing-manifest") && svg.contains("script-twice"));
        assert!(!svg.contains("builds"));
        assert_eq!(svg, super::svg(&evaluation.workloads).unwrap());
    }

    #[test]
    fn a_runaway_that_was_never_found_is_named_so() {
        let mut evaluation = fixture::evaluation();
        assert!(!svg(&evaluation.workloads).unwrap().contains("never found"));
        evaluation.workloads[0].trials.clear();
        assert!(svg(&evaluation.workloads).unwrap().contains("never found"));
    }

    #[test]
    fn the_axis_holds_whole_decades() {
        let evaluation = fixture::evaluation();
        let malign: Vec<&Judged> = evaluation.workloads.iter().take(2).collect();
        let (low, high) = range(&malign);
        assert!((low - 0.999).abs() < 1e-9 && (high - 10.01).abs() < 1e-9, "{low} to {high}");
        assert_eq!([0.01, 0.1, 1.0, 100.0].map(axis_label), ["0.01", "0.1", "1", "100"]);
    }

    #[test]
    fn nothing_malign_is_still_a_picture() {
        assert!(svg(&[]).unwrap().starts_with("<svg"));
    }
}
