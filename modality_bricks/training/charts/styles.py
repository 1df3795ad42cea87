"""How charts may look: two style spaces with nothing in common, one to train on and one to measure on. Training only.

What is held out are whole families: matplotlib style sheets, colour maps, fonts, markers, hatches, frames, and the words of
labels and titles. So a brick that was trained on `TRAIN` has seen no sheet, palette, font or label of `HELD_OUT`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class StyleSpace:
    """What one chart's style is drawn from."""

    sheets: tuple[str, ...]
    colour_maps: tuple[str, ...]  # qualitative and continuous ones alike
    fonts: tuple[str, ...]
    markers: tuple[str, ...]
    hatches: tuple[str, ...]
    frames: tuple[str, ...]  # which sides of the axes have a line
    grounds: tuple[str, ...]  # background colours; empty: the sheet's
    topics: tuple[tuple[str, ...], ...]  # titles of like things, then their labels, parted by "|"
    orders: tuple[tuple[str, ...], ...]  # labels that keep their order, such as months
    measures: tuple[str, ...]  # what is counted on the other axis


def _topic(titles: str, labels: str) -> tuple[str, ...]:
    return (titles, *labels.split(", "))


TRAIN = StyleSpace(
    sheets=(
        "default",
        "default",
        "classic",
        "ggplot",
        "grayscale",
        "fast",
        "seaborn-v0_8",
        "seaborn-v0_8-whitegrid",
        "seaborn-v0_8-darkgrid",
        "seaborn-v0_8-ticks",
        "seaborn-v0_8-dark",
        "seaborn-v0_8-paper",
        "seaborn-v0_8-talk",
        "tableau-colorblind10",
        "petroff6",
        "petroff10",
    ),
    colour_maps=(
        "tab10",
        "tab20",
        "Set1",
        "Set2",
        "Paired",
        "Pastel2",
        "viridis",
        "plasma",
        "Blues",
        "Greens",
        "YlOrBr",
    )
    + ("coolwarm", "Spectral", "winter", "hsv", "gist_earth", "copper", "PuRd"),
    fonts=("DejaVu Sans", "Liberation Sans", "Liberation Serif", "Liberation Mono", "STIXGeneral", "DejaVu Sans Mono"),
    markers=("o", "s", "^", ".", "x"),
    hatches=("/", "\\", "x", "-", ".", "//"),
    frames=("left right top bottom", "left bottom", "left right top bottom", ""),
    grounds=("", "", "", "#ffffff", "#f4f1ea", "#eef3f7", "#1f2430", "#2b2b2b", "#fdf6e3", "#e8e8e8"),
    topics=(
        _topic(
            "Fruit sold|Harvest of fruit|What people like best",
            "Apples, Pears, Plums, Cherries, Grapes, Lemons, Bananas, Melons, Figs, Peaches, Kiwis, Mangos, Oranges, Dates",
        ),
        _topic(
            "Visitors by country|Exports|Our customers",
            "France, Spain, Italy, Japan, Brazil, Canada, Kenya, India, Norway, Peru, Egypt, Chile, Poland, China, Greece",
        ),
        _topic(
            "Animals in the park|Pets in our street|Sightings",
            "Dogs, Cats, Horses, Rabbits, Foxes, Owls, Deer, Bears, Wolves, Swans, Goats, Sheep, Geese, Otters, Hares",
        ),
        _topic(
            "Revenue by department|Costs|Hours worked",
            "Sales, Support, Design, Legal, Finance, Research, Marketing, Logistics, Training, Security, Quality, Planning",
        ),
        _topic(
            "Favourite colours|Votes|Cars by colour",
            "Red, Blue, Green, Yellow, Orange, Purple, Brown, Black, White, Pink, Grey, Silver, Gold, Violet",
        ),
        _topic(
            "How people travel|Trips per week|Commuting",
            "Bus, Train, Car, Bicycle, Tram, Ferry, Walking, Taxi, Plane, Scooter, Subway, Boat",
        ),
        _topic(
            "Points per player|Results|Goals",
            "Anna, Ben, Clara, David, Emma, Felix, Greta, Hugo, Irene, Jonas, Karla, Leo, Maria, Nora, Oscar, Paul",
        ),
        _topic(
            "Energy by source|Power produced|Capacity",
            "Coal, Wind, Solar, Nuclear, Gas, Hydro, Biomass, Oil, Thermal, Tidal, Waste, Wood",
        ),
        _topic(
            "Sales by region|Stores|Population",
            "North, South, East, West, Centre, Coast, Islands, Valley, Hills, Capital, Suburbs, Harbour",
        ),
        _topic(
            "Teams compared|Group scores",
            "Group A, Group B, Group C, Group D, Group E, Group F, Group G, Group H, Group K",
        ),
        _topic(
            "Books borrowed|Shelf space|Library loans",
            "Novels, Poems, Comics, History, Travel, Cooking, Science, Crime, Drama, Letters, Maps, Music, Gardens",
        ),
        _topic(
            "Spending per month|Where the money goes|Budget",
            "Rent, Food, Clothes, Leisure, Health, Savings, Transport, Gifts, School, Phone, Insurance, Repairs, Taxes",
        ),
    ),
    orders=(
        tuple("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()),
        tuple(f"{year}" for year in range(2004, 2026)),
        ("Q1", "Q2", "Q3", "Q4"),
        tuple(f"Week {n}" for n in range(1, 13)),
        tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()),
    ),
    measures=("Value", "Amount", "Units sold", "Percent", "Thousands", "Number", "Revenue", "Count", "Score", "Tons"),
)

HELD_OUT = StyleSpace(
    sheets=(
        "fivethirtyeight",
        "Solarize_Light2",
        "bmh",
        "dark_background",
        "petroff8",
        "seaborn-v0_8-white",
        "seaborn-v0_8-poster",
        "seaborn-v0_8-pastel",
        "seaborn-v0_8-colorblind",
    ),
    colour_maps=(
        "Dark2",
        "Accent",
        "Pastel1",
        "Set3",
        "tab20b",
        "magma",
        "cividis",
        "Reds",
        "Purples",
        "RdYlGn",
        "cool",
    )
    + ("turbo", "terrain"),
    fonts=("DejaVu Serif", "Liberation Sans Narrow", "cmss10"),
    markers=("D", "v", "P", "*"),
    hatches=("+", "o", "|", "O"),
    frames=("bottom", "left right", "top bottom"),
    grounds=("", "", "#fff8f0", "#f0f5e9", "#10253a", "#3a2a3f", "#f6eefa"),
    topics=(
        _topic(
            "Vegetables grown|From the garden",
            "Carrots, Onions, Beans, Potatoes, Tomatoes, Cabbage, Spinach, Leeks, Radish, Pumpkin, Celery, Garlic, Peas",
        ),
        _topic(
            "Flights by city|Branch offices|Concerts",
            "Paris, Madrid, Vienna, Lisbon, Dublin, Athens, Oslo, Prague, Berlin, Rome, Warsaw, Geneva, Boston, Tokyo",
        ),
        _topic(
            "Instruments taught|The school orchestra",
            "Piano, Violin, Guitar, Flute, Trumpet, Drums, Cello, Harp, Organ, Clarinet, Oboe, Banjo",
        ),
        _topic(
            "Sports clubs|Members",
            "Tennis, Football, Rugby, Hockey, Rowing, Boxing, Fencing, Golf, Judo, Sailing, Skiing, Chess, Cricket",
        ),
        _topic(
            "Subjects chosen|Lessons",
            "Maths, Physics, Biology, Latin, English, German, Art, Ethics, Sport, Civics, Chemistry, Theatre",
        ),
        _topic(
            "Trees planted|The forest",
            "Oak, Maple, Birch, Pine, Cedar, Willow, Elm, Ash, Spruce, Larch, Poplar, Beech, Alder",
        ),
        _topic("Crews compared|Shifts", "Team 1, Team 2, Team 3, Team 4, Team 5, Team 6, Team 7, Team 8, Team 9"),
        _topic(
            "Drinks ordered|At the bar",
            "Coffee, Tea, Water, Juice, Milk, Cocoa, Cider, Beer, Wine, Soda, Punch, Tonic",
        ),
    ),
    orders=(
        tuple("January March April June July August October".split()),
        tuple(f"{year}" for year in range(1985, 2003)),
        tuple(f"Day {n}" for n in range(1, 11)),
        ("Spring", "Summer", "Autumn", "Winter"),
    ),
    measures=("Total", "Frequency", "Litres", "Members", "Share", "Hours", "Kilograms", "Index"),
)
SPACES = {"train": TRAIN, "dev": HELD_OUT}
