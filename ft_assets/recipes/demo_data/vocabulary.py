"""Names and sentence shapes of the demo's entity-extraction task.

Everything under ``TEST_`` is held out: no name and no sentence shape of the test split occurs in training, so a model
that memorises rows scores nothing. A shape's slots are ``{person}``, ``{company}``, ``{place}`` and ``{product}``;
``{person2}`` and the like ask for a second, different name. Words in a shape that look like names but are not (an
apple tree, a shell on the beach) are there on purpose.
"""

TYPES = ("person", "company", "place", "product")

TRAIN_FIRST = (
    "Maria", "Tom", "Aisha", "Viktor", "Lena", "Rahul", "Chloe", "Diego", "Hannah", "Kofi", "Yuki", "Peter",
    "Fatima", "Oscar", "Nina", "Samuel", "Greta", "Ivan", "Priya", "Lucas", "Ella", "Marcus", "Zoe", "Ahmed",
    "Noor", "Gustav", "Elena", "Pavel", "Rosa", "Idris", "Anneke", "Theo", "Camille", "Omar", "Freya", "Jonas", "Lucia",
    "Henrik", "Divya", "Mateo", "Agnes", "Kwame", "Sakura", "Rory", "Beatriz", "Anton", "Leila", "Nikolai", "Judith",
    "Emre", "Salma", "Victor", "Ines", "Gareth", "Olga", "Raj", "Marta", "Dmitri", "Yara", "Simon",
)
TRAIN_LAST = (
    "Keller", "Okafor", "Lindqvist", "Romero", "Patel", "Novak", "Tanaka", "Murphy", "Dubois", "Haddad", "Costa",
    "Weber", "Sato", "Larsen", "Moreau", "Bianchi", "Khan", "Fischer", "Silva", "Jansen", "Brown", "Petrov",
    "Van Dijk", "Osei", "Yilmaz", "Kowalski", "Reyes", "Andersson", "Gallagher", "Ferrari", "Chen", "Nguyen", "Schmidt",
    "Mbeki", "Lefevre", "Horvat", "Castro", "Ivanova", "Walsh", "Suzuki", "Banerjee", "Lopez", "Nielsen", "Quinn",
)
TEST_FIRST = ("Clara", "Bruno", "Naomi", "Felix", "Amara", "Hugo", "Ingrid", "Tariq", "Sofia", "Edward", "Mei", "Paul")
TEST_LAST = ("Hartmann", "Adeyemi", "Castillo", "Nakamura", "Wright", "Olsen", "Rossi", "Mehta", "Laurent", "Byrne")

TRAIN_COMPANY = (
    "Apple", "Shell", "Orange", "Target", "Siemens", "Toyota", "Nestle", "Adobe", "Brightwater Labs", "Norden Steel",
    "Helix Robotics", "Pinecrest Bank", "Volta Motors", "Bluefin Logistics", "Quarry Software", "Meridian Foods",
    "Castor Energy", "Tidewater Airlines", "Ferrum Mining", "Lumen Optics", "Hollis Insurance", "Aster Pharma",
    "Kestrel Aerospace", "Redwood Capital", "Marlin Shipping", "Cobalt Systems", "Fable Studios", "Granite Telecom",
    "Juniper Textiles", "Orchard Media", "IBM", "Samsung", "Intel", "Sony", "Ford", "Heineken", "Alcoa", "Verdo", "Zentra",
    "Corvex", "Mondial", "Talisker", "Ostara", "Pallas",
    *(f"{stem} {trade}" for stem in ("Falcon", "Amber", "Northgate", "Sable", "Windmill", "Crown", "Thistle", "Onyx")
      for trade in ("Rail", "Hotels", "Chemicals", "Games", "Partners", "Dairy", "Electronics", "Cloud")),
)
TEST_COMPANY = (
    "Amazon", "Gap", "Sprint", "Bosch", "Nokia", "Harrow Chemicals", "Silverline Rail", "Obsidian Games", "Nimbus Cloud",
    "Polestar Dairy", "Summit Hotels", "Vesper Electronics", "Ironbridge Partners", "Larkspur Biotech", "Delta Paper",
)

TRAIN_PLACE = (
    "Paris", "Oslo", "Nairobi", "Lisbon", "Kyoto", "Chicago", "Toronto", "Mumbai", "Berlin", "Cairo", "Brazil", "Peru",
    "Dublin", "Seoul", "Vienna", "Morocco", "Texas", "Prague", "Geneva", "Finland", "Lagos", "Boston", "Warsaw",
    "New Zealand", "Hamburg", "Jakarta", "Denver", "Athens",
    "Rome", "Sydney", "Bangkok", "Manila", "Havana", "Tunis", "Dakar", "Lima", "Bogota", "Quito", "Kyiv", "Riga", "Tallinn",
    "Vilnius", "Bern", "Lyon", "Porto", "Seville", "Naples", "Turin", "Leipzig", "Gdansk", "Bergen", "Malmo", "Aarhus",
    "Cork", "Leeds", "Bristol", "Ottawa", "Calgary", "Dallas", "Phoenix", "Nevada", "Oregon", "Kerala", "Punjab", "Nagoya",
    "Busan", "Hanoi", "Kenya", "Ghana", "Zambia", "Jordan", "Iceland", "Norway", "Austria", "Cuba", "Nepal", "Costa Rica",
    "Cape Town", "San Diego", "Tel Aviv", "Abu Dhabi", "Kuala Lumpur",
)
TEST_PLACE = (
    "Madrid", "Helsinki", "Accra", "Osaka", "Seattle", "Montreal", "Delhi", "Munich", "Chile", "Portugal", "Edinburgh",
    "Buenos Aires", "Zurich", "Vietnam",
)

TRAIN_PRODUCT = (
    "Model Y", "ThinkPad", "Kindle", "AirPods", "PhotoMaster 4", "Aquaclear", "RoadRunner X", "Pixel 9", "DataDock",
    "SolarTile", "PowerDrill 300", "Galaxy Tab", "FreshBox", "NightOwl Lamp", "CityBike 2", "MediScan", "Walkman",
    "ZipCooker", "Surface Pro", "TrailBoots", "Civic", "MacBook", "Xbox", "Polaroid", "Golf GTI", "Nespresso",
    *(f"{stem}{thing}" for stem in ("Easy", "Night", "Turbo", "Smart", "Sun", "Air")
      for thing in ("Cam", "Mower 2", "Board", "Brush", "Kettle", "Check Pro", "Glide", "Pad 5")),
)
TEST_PRODUCT = (
    "PlayStation", "QuickBrew", "SkyCam 7", "LeafBlower Pro", "NoteBuddy", "Corolla", "ThermoMug", "iPad", "GlucoCheck",
    "VoltBoard",
)

TRAIN_SHAPES = (
    "The {company} executive executed a perfect turn near an apple tree.",
    "{person} joined {company} as head of sales in {place}.",
    "{company} opened a new office in {place} last week.",
    "{person} bought a {product} before flying to {place}.",
    "Reviewers said the {product} from {company} is too heavy.",
    "{person} and {person2} met in {place} to discuss the merger.",
    "{company} sued {company2} over the design of the {product}.",
    "In {place}, {person} found a shell on the beach and kept it.",
    "Shares of {company} fell after {person} resigned.",
    "The orange juice in {place} tastes better, says {person}.",
    "The factory in {place} will build the {product} from May.",
    "{person} used a {product} to record the whole meeting.",
    "Nobody on the team had an idea what to do next.",
    "A red fox crossed the road and vanished into the trees.",
    "{company} hired {person} away from {company2}.",
    "Trains between {place} and {place2} were late again.",
    "{person} missed the target by a metre and laughed.",
    "Customers in {place} returned thousands of {product} units.",
    "Analysts at {company} expect a quiet year.",
    "{person}, who grew up in {place}, now runs {company}.",
    "The board of {company} thanked {person} for ten years of work.",
    "A storm closed the harbour of {place} for two days.",
    "The new {product} ships with a longer cable.",
    "{person} wrote a long letter to {company} about the {product}.",
    "After lunch {person} took the bus to {place}.",
    "{company} will stop selling the {product} in {place}.",
    "The apple pie was cold, but the coffee was fine.",
    "According to {person}, the deal with {company} is done.",
    "{place} plans to tax parking near the station.",
    "{person} compared the {product} with the {product2}.",
    "Both {company} and {company2} bid for the contract in {place}.",
    "Police in {place} thanked {person} for the tip.",
    "My old {product} broke, so {person} lent me another.",
    "{company} moved its warehouse from {place} to {place2}.",
    "The gap between the two shelves is far too wide.",
    "Engineers at {company} tested the {product} in {place}.",
    "{person} will speak about soil and water tomorrow.",
    "The mayor of {place} visited a plant owned by {company}.",
    "Prices rose in {place}, {place2} and the villages around.",
    "Before the meeting, {person} called {person2} twice.",
    "Why did {person} refuse the offer from {company}?",
    "{place}, {place2}: two cities, one river and no bridge.",
    "The {product} that {person} reviewed was made by {company}.",
    "From {place}, {company} ships the {product} to every continent.",
    "Investors asked {person} whether {company} would merge with {company2}.",
    "Hardly anyone noticed when {person} switched off the {product}.",
    "It rained in {place}, so the parade was moved.",
    "With help from {person}, {company} repaired the roof.",
    "The {company} van blocked the road to {place}.",
    "Is the {product} cheaper in {place} than in {place2}?",
    "{person} never trusted {company}, and said so in {place}.",
    "The bank by the river was covered with wild garlic.",
    "Nobody could open the jar, not even the strongest cook.",
    "A spokesman for {company} declined to comment on the {product}.",
    "Yesterday {person} taught {person2} to repair a {product}.",
    "Doctors in {place} praised the {product}.",
    "{company2} and {company} share a laboratory outside {place}.",
    "Thanks to the {product}, {person} found the way back to {place}.",
    "The parrot and the old turtle sleep in the same cage.",
    "{person} is suing {company} in a court in {place}.",
    "Only {company} still makes parts for the {product}.",
    "On Monday {person} leaves {company} for good.",
    "The lake near {place} froze, and {person} skated across it.",
    "Workers at the {company} plant voted to strike.",
    "{product} sales in {place} doubled, {company} reported.",
    "We walked for hours and met only a farmer with three goats.",
    "Students from {place} visited {company} on Tuesday.",
    "Neighbours of {person} heard nothing that night.",
    "Teachers at the school bought a {product} for each class.",
    "Look out, shouted {person}, and jumped off the pier in {place}.",
    "Wait for me, said {person2} to {person}.",
    "Critics call the {product} a toy; {person} disagrees.",
    "Fishermen near {place} sold their boats to {company}.",
    "Rents in {place} are higher than in {place2}.",
    "Engineers from {company} and {company2} met {person} for dinner.",
    "Stay calm, the pilot told the passengers over the radio.",
    "Tourists in {place} photographed the {product} in a shop window.",
    "Once the {product} sold better than the {product2}; no longer.",
    "Visitors must leave coats and umbrellas at the door.",
    "Suppliers of {company} wrote to {person} and asked for money.",
    "Coming back from {place}, {person} slept on the train.",
    "Rumours about {company2} hurt {company} more than expected.",
    "Bees and wasps build their nests under the roof every summer.",
    "{company}, unlike {company2}, pays its interns in {place}.",
    "Somebody stole the {product} that belonged to {person}.",
    "A court in {place} heard {person} on Thursday.",
)

TEST_SHAPES = (
    "When {company} cut jobs, {person} left for {place}.",
    "Tickets for the show in {place} were sold by {company}.",
    "It was {person} who dropped the {product} into the lake.",
    "The amazon parrot escaped while {person} was cleaning its cage.",
    "{place} is where {company} first demonstrated the {product}.",
    "Could {person} explain to {person2} why {company} said no?",
    "They had to sprint through the rain to reach the shop.",
    "Mind the gap, said {person}, stepping onto the platform in {place}.",
    "Since June the {product} outsells the {product2} at every store.",
    "Lawyers for {person} asked {company} to repair the {product}.",
    "Nothing grows on the hill except grass and a lonely pine.",
    "Flying home from {place}, {person} read about {company2} and {company}.",
    "{company2}, not {company}, owns the land around {place}.",
    "A judge in {place} ordered {company} to pay {person}.",
    "{person} sold the {product} to a neighbour for half the price.",
    "Between {place} and {place2} there is only one petrol station.",
    "Farmers outside {place} complain about {company}.",
    "With a smile, {person} handed the {product} back.",
)

OOD_SHAPES = (
    "RE: invoice from {company} - pls ask {person} to sign!!",
    "{place}: {company} profit up 4 pct, {product} recall ends",
    "lol {person} left the {product} on the train again",
    "MINUTES. Present: {person}, {person2}. Absent: none. Venue: {place}.",
    "To whom it may concern: the {product} never reached {place}.",
    "q: does {company} deliver to {place}? a: yes, ask {person}",
    "BREAKING - {company} names {person} chief executive",
    "no names here, just a note to buy milk and bread",
)
