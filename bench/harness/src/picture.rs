//! Pictures as files: the same one as SVG and as PNG.

use std::path::Path;
use std::sync::Once;

use anyhow::{Context, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;

/// Pixels.
pub const SIZE: (u32, u32) = (960, 540);
/// The font that pictures have.
pub const FONT: &str = "sans-serif";

/// Something that can be drawn.
pub trait Picture {
    /// Its file, without an ending.
    fn file(&self) -> &str;

    /// Draws it.
    ///
    /// # Errors
    /// The backend's.
    fn paint<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> anyhow::Result<()>
    where
        B::ErrorType: 'static;
}

/// Draws a picture into a directory that exists, as SVG and PNG.
///
/// # Errors
/// A file cannot be written.
pub fn save(picture: &impl Picture, directory: &Path) -> anyhow::Result<()> {
    install_font()?;
    let svg = directory.join(format!("{}.svg", picture.file()));
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        draw(picture, &area)?;
    }
    std::fs::write(&svg, text).with_context(|| format!("cannot write {}", svg.display()))?;
    let mut pixels = vec![0; (SIZE.0 * SIZE.1 * 3) as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area();
        draw(picture, &area)?;
    }
    write_png(&directory.join(format!("{}.png", picture.file())), &pixels)
}

fn draw<B: DrawingBackend>(
    picture: &impl Picture,
    area: &DrawingArea<B, Shift>,
) -> anyhow::Result<()>
where
    B::ErrorType: 'static,
{
    let failed = |error: DrawingAreaErrorKind<B::ErrorType>| anyhow!("{}: {error}", picture.file());
    area.fill(&WHITE).map_err(failed)?;
    picture.paint(area)?;
    area.present().map_err(failed)
}

fn write_png(path: &Path, pixels: &[u8]) -> anyhow::Result<()> {
    let file =
        std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut encoder = png::Encoder::new(std::io::BufWriter::new(file), SIZE.0, SIZE.1);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(pixels)?;
    Ok(())
}

/// A font of our own: a fresh machine may have none.
fn install_font() -> anyhow::Result<()> {
    static ONCE: Once = Once::new();
    let mut installed = Ok(());
    ONCE.call_once(|| {
        installed = register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    });
    installed.map_err(|_| anyhow!("the font for pictures cannot be read"))
}
