// Turns the row of pictures into one picture with a slider through time. Without JavaScript the row stays.
for (const gallery of document.querySelectorAll("[data-gallery]")) {
  const frames = [...gallery.querySelectorAll("figure")];
  if (frames.length < 2) continue;
  const controls = document.createElement("div");
  const play = document.createElement("button");
  const slider = document.createElement("input");
  const shown = document.createElement("output");
  controls.className = "controls";
  play.type = "button";
  slider.type = "range";
  slider.min = 0;
  slider.max = frames.length - 1;
  slider.setAttribute("aria-label", "Moment in training");
  controls.append(play, slider, shown);
  gallery.before(controls);
  gallery.classList.add("scrub");
  gallery.removeAttribute("tabindex");

  let timer = 0;
  const show = (index) => {
    frames.forEach((frame, i) => frame.classList.toggle("on", i === index));
    slider.value = index;
    shown.textContent = frames[index].dataset.label;
    slider.setAttribute("aria-valuetext", frames[index].dataset.label);
  };
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
  };
  slider.addEventListener("input", () => {
    stop();
    show(Number(slider.value));
  });
  play.addEventListener("click", () => {
    if (timer) return stop();
    let next = Number(slider.value) === frames.length - 1 ? 0 : Number(slider.value);
    show(next);
    play.textContent = "Pause";
    timer = setInterval(() => {
      next += 1;
      show(next);
      if (next === frames.length - 1) stop();
    }, 600);
  });
  stop();
  show(frames.length - 1);
}
